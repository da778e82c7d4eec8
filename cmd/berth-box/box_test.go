package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/internal/box/applets"

	"golang.org/x/sys/unix"
)

var bin string // a directory like the image's /bin

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "berth-box-")
	if err != nil {
		panic(err)
	}
	bin = filepath.Join(dir, "bin")
	build := exec.Command("go", "build", "-o", filepath.Join(bin, "box"), ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(string(out))
	}
	for _, name := range applets.Names() {
		if err := os.Symlink("box", filepath.Join(bin, name)); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func TestEveryNameHasAnApplet(t *testing.T) {
	for _, name := range applets.Names() {
		if lookup(name) == nil {
			t.Errorf("%s is a link in the image, and nothing stands behind it", name)
		}
	}
	source, err := os.ReadFile("table.go")
	if err != nil {
		t.Fatal(err)
	}
	if cases := strings.Count(string(source), "\tcase \""); cases != len(applets.Names()) {
		t.Errorf("lookup has %d applets and the image %d links", cases, len(applets.Names()))
	}
}

func command(t *testing.T, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, args[0]), args[1:]...)
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"PATH=" + bin, "HOME=/root", "A=b"}
	return cmd
}

func code(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		return -1
	}
	return 0
}

// Every line is run by the shell of the image, in an empty directory, with the image's programs only.
func TestCommandLines(t *testing.T) {
	for _, c := range []struct {
		line, want string
		code       int
	}{
		{`/bin/true; env false; echo $?`, "1\n", 0},
		{`env echo a b; env printf '%s-%d\n' c 3; env [ 1 = 1 ] && env test a = a && echo yes`, "a b\nc-3\nyes\n", 0},
		{`env test a = b`, "", 1},
		{`echo 'a b c' | awk -v n=2 '{print $n}'; awk 'BEGIN{exit 3}'; echo $?`, "b\n3\n", 0},
		{`echo hello | base64; echo aGVsbG8K | base64 -d`, "aGVsbG8K\nhello\n", 0},
		{`basename /a/b.c .c; dirname /a/b/; dirname c; basename /`, "b\n/a\n.\n/\n", 0},
		{`echo 1 >a; cat a; cp a b; mv b c; mkdir -p d/e; touch d/f; ls; rm -r d a; ls`, "1\na\nc\nd\nc\n", 0},
		{`touch a; chmod 600 a; stat -c '%a %s %F' a; chmod 4755 a; stat -c %a a`, "600 0 regular file\n4755\n", 0},
		{`touch a; me=$(id -u):$(id -g); chown "$me" a && [ "$(stat -c '%u:%g' a)" = "$me" ] && echo mine`, "mine\n", 0},
		{`printf 'a:b:c\n' | cut -d: -f1,3; printf 'abcdef\n' | cut -c2-3`, "a:c\nbc\n", 0},
		{`date -u -d @0 '+%F %T %j'`, "1970-01-01 00:00:00 001\n", 0},
		{`printf abcdef | dd bs=1 skip=2 count=3 2>/dev/null`, "cde", 0},
		{`df / | head -n 1 | cut -c1-10; free | head -n 1 | awk '{print $1}'`, "Filesystem\ntotal\n", 0},
		{`env -i X=y env; printenv A; printenv NONE`, "X=y\nb\n", 1},
		{`mkdir -p x/y; touch x/y/a.go x/b.go x/c; find x -name '*.go' -type f | sort; find x ! -type d -maxdepth 1 -exec echo '<{}>' ';' | sort; find x -name c -delete; find x -name c`, "x/b.go\nx/y/a.go\n<x/b.go>\n<x/c>\n", 0},
		{`printf 'ab\nAC\nb\n' >f; grep -n '^a' f; grep -ic '^a' f; grep -v a f; grep -q zz f; echo $?; grep -E 'a|C$' f; grep -F . f; echo $?; grep '\(a\)b' f`, "1:ab\n2\nAC\nb\n1\nab\nAC\n1\nab\n", 0},
		{`mkdir d; echo x >d/f; grep -r x d; grep -l x d/f`, "d/f:x\nd/f\n", 0},
		{`echo text >f; gzip f; ls; zcat f.gz; gunzip f.gz; cat f; echo s | gzip | gunzip`, "f.gz\ntext\ntext\ns\n", 0},
		{`seq 20 | head -n 2; seq 20 | tail -n 2; seq 3 | tail -n +3; printf abc | head -c 2; printf abc | tail -c 1`, "1\n2\n19\n20\n3\nabc", 0},
		{`[ "$(hostname)" = "$(uname -n)" ] && uname -s`, "Linux\n", 0},
		{`[ "$(id -u)" = "$(stat -c %u .)" ] && echo same; [ "$(id -un)" = "$(whoami)" ] && echo same`, "same\nsame\n", 0},
		{`ip link | grep -c ' lo: '; ip addr | grep -c 127.0.0.1/8`, "1\n1\n", 0},
		{`sleep 50 & kill $!; wait $!; echo $?; kill -l | head -n 1 | cut -c1-8`, "143\nHUP INT \n", 0},
		{`echo x >a; ln -s a b; ln a c; readlink b; cat c; ln -sf c b; readlink b; [ "$(readlink -f b)" = "$(realpath c)" ] && echo same`, "a\nx\nc\nsame\n", 0},
		{`ls missing`, "", 1},
		{`[ -d "$(mktemp -d -p .)" ] && echo made`, "made\n", 0},
		{`mount | grep -c ' on /proc type proc'; [ "$(nproc)" -ge 1 ] && echo some`, "1\nsome\n", 0},
		{`ps | awk '$1 == '$$' {print $2}' | grep -c .; env pwd | grep -c /`, "1\n1\n", 0},
		{`mkdir a; rmdir a; ls`, "", 0},
		{`seq 1 2 5; seq 2 -1 1`, "1\n3\n5\n2\n1\n", 0},
		{`printf abc | sha256sum; printf abc >f; shasum f | cut -c1-10`, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  -\na9993e3647\n", 0},
		{`sleep 0.01; sleep x 2>/dev/null; echo $?`, "2\n", 0},
		{`printf 'b 2\na 10\nc 1\nc 1\n' >f; sort f | uniq -c | awk '{print $1$2}'; sort -n -k2 f | head -n 1; sort -ru f`, "1a\n1b\n2c\nc 1\nc 1\nb 2\na 10\n", 0},
		{`tty; stty size </dev/null 2>/dev/null || echo none`, "not a tty\nnone\n", 0},
		{`sync; mkdir d; echo t >d/f; tar -czf x.tgz d; rm -r d; tar tzf x.tgz; mkdir e; tar -xzf x.tgz -C e; cat e/d/f; tar c e | tar t | head -n 1`, "d\nd/f\nt\ne\n", 0},
		{`echo x | tee a b; cat a b`, "x\nx\nx\n", 0},
		{`echo hello | tr a-y b-z; echo aabb | tr -s a; echo a1b2 | tr -d '[:digit:]'; echo abc | tr -cd 'b\n'`, "ifmmp\nabb\nab\nb\n", 0},
		{`printf 'a b\nc\n' | wc; printf 'äö' | wc -m`, "2 3 6\n2\n", 0},
		{`where | grep -c '^namespaces$'; where | grep -c capabilities`, "1\n1\n", 0},
		{`printf 'a b c' | xargs -n 2 echo`, "a b\nc\n", 0},
		{`yes | head -n 2`, "y\ny\n", 0},
		{`wget -q -O - https://127.0.0.1/ 2>/dev/null; echo $?; nc -z 127.0.0.1 1 2>/dev/null; echo $?`, "1\n1\n", 0},
		{`grep --no-such-option x 2>/dev/null; echo $?`, "2\n", 0},
		// The shell itself.
		{`set -e; false; echo not reached`, "", 1},
		{`f() { return 3; }; f; echo $?; x=$(false); echo $?`, "3\n1\n", 0},
		{"cat <<END\n$((1+2)) $(echo b | tr a-z A-Z)\nEND\ncat <<'END'\n$x\nEND", "3 B\n$x\n", 0},
		{`nosuch 2>/dev/null; echo $?; / 2>/dev/null; echo $?`, "127\n126\n", 0},
		{`echo out >f; echo err >&2 2>>f; ls nope 2>f; [ -s f ] && cat <f | wc -l`, "1\n", 0},
		{`echo 'echo script $1; exit 4' >s; sh s arg; echo $?; chmod +x s; ./s two; echo $?`, "script arg\n4\nscript two\n4\n", 0},
		{`sh -c 'if' 2>/dev/null; echo $?`, "2\n", 0},
		{`sh -c 'kill -9 $$'; echo $?`, "137\n", 0},
		{`(exec echo sub); echo still; echo x | (exec cat); exec echo gone; echo never`, "sub\nstill\nx\ngone\n", 0},
		{`sh -c 'echo $0 $1 $#' name one two`, "name one 2\n", 0},
		{`trap 'echo bye' EXIT; trap 'echo got; exit 6' TERM; kill $$; sleep 0.1; echo never`, "got\nbye\n", 6},
		{`trap '' TERM; kill $$; trap - TERM; echo alive`, "alive\n", 0},
		{`cd /; pwd; umask 027; umask`, "/\n0027\n", 0},
		{`A=c env | grep ^A=; export Z=z; unset A; env | grep -E '^(A|Z)='`, "A=c\nZ=z\n", 0},
		{`while true; do sleep 0.01; done & sleep 0.05; kill $!; wait $!; echo $?`, "143\n", 0},
	} {
		cmd := command(t, "sh", "-c", strings.Replace(c.line, "/bin/true", filepath.Join(bin, "true"), 1))
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if string(out) != c.want || code(err) != c.code {
			t.Errorf("%s\ngave %q and status %d, not %q and %d\n%s", c.line, out, code(err), c.want, c.code, &stderr)
		}
	}
}

func TestExecKeepsTheProcess(t *testing.T) {
	for _, line := range []string{`exec sh -c 'echo $$; :'`, `sh -c 'echo $$; :'`} {
		cmd := command(t, "sh", "-c", line)
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := cmd.Run(); err != nil || strings.TrimSpace(out.String()) != strconv.Itoa(cmd.Process.Pid) {
			t.Errorf("%s ran as %q, not as %d: %v", line, out.String(), cmd.Process.Pid, err)
		}
	}
}

func TestATrappedSignalEndsWait(t *testing.T) {
	cmd := command(t, "sh", "-c", `trap 'kill $!; echo bye; exit 5' TERM; sleep 60 & echo ready; wait`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make([]byte, 6)
	if _, err := io.ReadFull(out, ready); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(out)
	if err := cmd.Wait(); string(rest) != "bye\n" || code(err) != 5 {
		t.Errorf("wait gave %q and %v", rest, err)
	}
}

func TestServeAndFetch(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	server := command(t, "httpd", "-p", address, "-h", ".")
	if err := os.WriteFile(filepath.Join(server.Dir, "f"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	host, port, _ := net.SplitHostPort(address)
	var out []byte
	for range 100 {
		if command(t, "nc", "-z", host, port).Run() == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if out, err = command(t, "wget", "-q", "-O", "-", "http://"+address+"/f").Output(); err != nil || string(out) != "content" {
		t.Errorf("wget gave %q, %v", out, err)
	}
	if err := command(t, "wget", "-q", "-O", "-", "http://"+address+"/none").Run(); code(err) != 1 {
		t.Errorf("a missing page gave %v", err)
	}
}

// terminal starts the shell on a pseudo-terminal of its own.
func terminal(t *testing.T) (*os.File, *exec.Cmd) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("there are no pseudo-terminals: %v", err)
	}
	t.Cleanup(func() { _ = master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	cmd := command(t, "sh")
	cmd.Env = append(cmd.Env, "PS1=> ")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return master, cmd
}

func TestControlCAtTheTerminal(t *testing.T) {
	master, cmd := terminal(t)
	seen := make(chan string, 100)
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := master.Read(buffer)
			if err != nil {
				close(seen)
				return
			}
			seen <- string(buffer[:n])
		}
	}()
	var all string
	expect := func(what string) {
		t.Helper()
		limit := time.After(5 * time.Second)
		for !strings.Contains(all, what) {
			select {
			case s, ok := <-seen:
				if !ok {
					t.Fatalf("the terminal ended before %q; it showed %q", what, all)
				}
				all += s
			case <-limit:
				t.Fatalf("the terminal does not show %q but %q", what, all)
			}
		}
		_, all, _ = strings.Cut(all, what)
	}
	send := func(text string) {
		t.Helper()
		if _, err := master.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	expect("> ")
	send("half a line\x03") // at the prompt: the line is gone, the shell is not
	expect("\n> ")
	send("echo one$((1+1))\n")
	expect("one2\r\n> ")
	send("sleep 60; echo never$((1+1))\n") // in a program: it dies, and the rest of the line with it
	time.Sleep(200 * time.Millisecond)
	send("\x03")
	expect("\n> ")
	send("while :; do :; done\n") // in the shell itself
	time.Sleep(100 * time.Millisecond)
	send("\x03")
	expect("\n> ")
	send("if true\n")
	expect("> ")
	send("then echo multi$((1+1)); fi\n")
	expect("multi2\r\n> ")
	send("exit 9\n")
	if err := cmd.Wait(); code(err) != 9 {
		t.Errorf("the shell ended with %v, not 9; it showed %q", err, all)
	}
}
