// Package applets lists the names by which the program in the built-in image is called. It is nothing but that table, so
// that cmd/berth-box does not carry what makes an image of it.
package applets

// names are those by which the program can be called, sorted. Each is a link in the image; cmd/berth-box has the
// implementations, and its test proves that the two agree.
var names = [...]string{
	"[", "awk", "base64", "basename", "cat", "chmod", "chown", "cp", "cut", "date", "dd", "df", "dirname", "echo", "env",
	"false", "find", "free", "grep", "gunzip", "gzip", "head", "hostname", "httpd", "id", "ip", "kill", "ln", "ls",
	"mkdir", "mktemp", "mount", "mv", "nc", "nproc", "printenv", "printf", "ps", "pwd", "readlink", "realpath", "rm",
	"rmdir", "seq", "sh", "sha256sum", "shasum", "sleep", "sort", "stat", "stty", "sync", "tail", "tar", "tee", "test",
	"touch", "tr", "true", "tty", "uname", "uniq", "wc", "wget", "where", "whoami", "xargs", "yes", "zcat",
}

// Names returns the names of all applets.
func Names() []string { return append([]string(nil), names[:]...) }
