package registry

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"strings"
	"sync"
)

// Proxy is an HTTP proxy that knows every host by name: all are the server at one address, which speaks HTTP. HTTPS to a host
// ends, too, at the proxy's, with a certificate that nobody has reason to trust.
type Proxy struct {
	Address string // host:port
	plain   *httptest.Server
	secure  *httptest.Server
	mu      sync.Mutex
	log     *os.File // guarded by mu; "METHOD HOST" of each request
}

// StartProxy starts one that writes what it is asked for into a file.
func StartProxy(address, log string) (*Proxy, error) {
	file, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	p := &Proxy{log: file}
	forward := func(scheme string) http.Handler {
		return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", address, r.In.Host
			r.Out.Header.Set("X-Forwarded-Proto", scheme) // so that the registry's Locations are right
		}}
	}
	plain := forward("http")
	p.secure = httptest.NewTLSServer(forward("https"))
	p.plain = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.note(r)
		switch {
		case r.Method == http.MethodConnect:
			p.connect(w)
		case r.URL.Host == "":
			http.Error(w, "this is a proxy", http.StatusBadRequest)
		default:
			plain.ServeHTTP(w, r)
		}
	}))
	p.Address = strings.TrimPrefix(p.plain.URL, "http://")
	return p, nil
}

func (p *Proxy) note(r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(p.log, r.Method, r.Host)
}

// connect joins the client and the server behind.
func (p *Proxy) connect(w http.ResponseWriter) {
	behind, err := net.Dial("tcp", p.secure.Listener.Addr().String())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer behind.Close()
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer client.Close()
	if _, err := io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(behind, buffered)
		_ = behind.Close()
	}()
	_, _ = io.Copy(client, behind)
}

// Stop ends the proxy; its log stays.
func (p *Proxy) Stop() {
	p.plain.CloseClientConnections()
	p.secure.CloseClientConnections()
	p.plain.Close()
	p.secure.Close()
	_ = p.log.Close()
}
