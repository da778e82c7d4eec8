package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"sync"
	"time"
)

// netcat carries standard input and output over TCP: "nc HOST PORT", or "nc -l -p PORT" for one connection.
func netcat(args []string) error {
	o, rest, err := getopt(args, "lp:w:z")
	if err != nil {
		return err
	}
	const usage = "nc [-z] [-w SECONDS] HOST PORT | nc -l -p PORT"
	timeout := time.Duration(0)
	if o.has('w') {
		if timeout, err = time.ParseDuration(o['w'] + "s"); err != nil {
			return usageError("option -w takes seconds")
		}
	}
	var conn net.Conn
	if o.has('l') {
		port := o['p']
		if port == "" && len(rest) == 1 {
			port = rest[0]
		}
		if port == "" || o.has('z') || o.has('w') {
			return usageError("usage: " + usage)
		}
		listener, err := net.Listen("tcp", ":"+port)
		if err != nil {
			return err
		}
		conn, err = listener.Accept()
		if err := errors.Join(err, listener.Close()); err != nil {
			return err
		}
	} else {
		if err := operands(rest, 2, 2, usage); err != nil {
			return err
		}
		if conn, err = net.DialTimeout("tcp", net.JoinHostPort(rest[0], rest[1]), timeout); err != nil {
			return err
		}
		if o.has('z') {
			return conn.Close()
		}
	}
	defer conn.Close()
	go func() {
		_, _ = io.Copy(conn, os.Stdin)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(os.Stdout, conn)
	return err
}

// wget fetches over http. There are no certificates in the image, so https is refused and not half done.
func wget(args []string) error {
	o, rest, err := getopt(args, "O:qT:")
	if err != nil {
		return err
	}
	if err := operands(rest, 1, 1, "wget [-q] [-O FILE] [-T SECONDS] http://HOST/PATH"); err != nil {
		return err
	}
	address := rest[0]
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	if u.Scheme != "http" {
		return fmt.Errorf("cannot fetch %s: only http is spoken here", address)
	}
	client := &http.Client{}
	if o.has('T') {
		if client.Timeout, err = time.ParseDuration(o['T'] + "s"); err != nil {
			return usageError("option -T takes seconds")
		}
	}
	answer, err := client.Get(address)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("cannot fetch %s: the server answers %s", address, answer.Status)
	}
	name := o['O']
	if name == "" {
		if name = path.Base(u.Path); name == "/" || name == "." {
			name = "index.html"
		}
	}
	if name == "-" {
		_, err = io.Copy(stdout, answer.Body)
		return err
	}
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	n, err := io.Copy(file, answer.Body)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if !o.has('q') {
		fmt.Fprintf(os.Stderr, "%s: %d bytes\n", name, n)
	}
	return nil
}

// httpd serves the files of a directory: "httpd [-p [ADDRESS:]PORT] [-h DIRECTORY] [-v]".
func httpd(args []string) error {
	o, rest, err := getopt(args, "p:h:vf")
	if err != nil {
		return err
	}
	if err := operands(rest, 0, 0, "httpd [-f] [-v] [-p [ADDRESS:]PORT] [-h DIRECTORY]"); err != nil {
		return err
	}
	address, dir := ":80", "."
	if o.has('p') {
		if address = o['p']; !strings.Contains(address, ":") {
			address = ":" + address
		}
	}
	if o.has('h') {
		dir = o['h']
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	files := http.FileServerFS(root.FS())
	var mu sync.Mutex
	server := &http.Server{Addr: address, ReadHeaderTimeout: 30 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if o.has('v') {
			mu.Lock()
			fmt.Fprintf(os.Stderr, "%s %s %s\n", r.RemoteAddr, r.Method, r.URL.Path)
			mu.Unlock()
		}
		files.ServeHTTP(w, r)
	})}
	return server.ListenAndServe()
}

// ip lists: "ip [addr|link]".
func ip(args []string) error {
	what := "addr"
	if len(args) > 0 {
		what = args[0]
	}
	if len(args) > 2 || len(args) == 2 && !strings.HasPrefix("show", args[1]) && args[1] != "list" {
		return usageError("usage: ip [addr|link] [show]")
	}
	withAddresses := false
	switch what {
	case "a", "addr", "address":
		withAddresses = true
	case "l", "link":
	default:
		return usageError("usage: ip [addr|link] [show]")
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range interfaces {
		fmt.Fprintf(stdout, "%d: %s: <%s> mtu %d\n", i.Index, i.Name, strings.ToUpper(strings.ReplaceAll(i.Flags.String(), "|", ",")), i.MTU)
		if len(i.HardwareAddr) > 0 {
			fmt.Fprintf(stdout, "    link/ether %s\n", i.HardwareAddr)
		} else if i.Flags&net.FlagLoopback != 0 {
			fmt.Fprintln(stdout, "    link/loopback")
		}
		if !withAddresses {
			continue
		}
		addresses, err := i.Addrs()
		if err != nil {
			return err
		}
		for _, a := range addresses {
			family := "inet"
			if n, ok := a.(*net.IPNet); ok && n.IP.To4() == nil {
				family = "inet6"
			}
			fmt.Fprintf(stdout, "    %s %s\n", family, a)
		}
	}
	return nil
}
