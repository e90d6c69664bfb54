// The application served by Go's net/http itself. It prints the ports that it listens on.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

const big = 6 << 20

func main() {
	pair, err := tls.LoadX509KeyPair("server.pem", "server.key")
	check(err)
	pem, err := os.ReadFile("authority.pem")
	check(err)
	authority := x509.NewCertPool()
	authority.AppendCertsFromPEM(pem)

	secure := &tls.Config{Certificates: []tls.Certificate{pair}}
	mutual := &tls.Config{
		Certificates: []tls.Certificate{pair},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    authority,
	}
	ports := []string{
		serve(nil, time.Minute),
		serve(secure, time.Minute),
		serve(nil, 300*time.Millisecond),
		serve(secure, 300*time.Millisecond),
		serve(mutual, time.Minute),
	}
	fmt.Println("ports " + strings.Join(ports, " "))
	select {}
}

func serve(secure *tls.Config, idle time.Duration) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler:     http.HandlerFunc(handle),
		TLSConfig:   secure,
		IdleTimeout: idle,
		Protocols:   protocols,
		HTTP2:       &http.HTTP2Config{MaxConcurrentStreams: 10},
	}
	go func() {
		if secure == nil {
			check(server.Serve(listener))
		} else {
			check(server.ServeTLS(listener, "", ""))
		}
	}()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	check(err)
	return port
}

func handle(w http.ResponseWriter, r *http.Request) {
	_, port, _ := net.SplitHostPort(r.RemoteAddr)
	w.Header().Set("x-port", port)
	switch r.URL.Path {
	case "/hello":
		w.Header().Set("content-length", "5")
		io.WriteString(w, "hello")
	case "/echo":
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Write(body)
	case "/big":
		body := make([]byte, big)
		for i := range body {
			body[i] = byte(i % 251)
		}
		w.Write(body)
	case "/slow":
		<-r.Context().Done()
	case "/trailers":
		w.Header().Set("trailer", "grpc-status, grpc-message")
		io.WriteString(w, "a message")
		w.(http.Flusher).Flush()
		w.Header().Set("grpc-status", "5")
		w.Header().Set("grpc-message", "not found")
		// Not announced.
		w.Header().Set(http.TrailerPrefix+"x-sum", "7")
	case "/trailers-of-request":
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, r.Trailer.Get("x-sum"))
	case "/sink":
		io.Copy(io.Discard, r.Body)
	case "/limited":
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		io.WriteString(w, "too big")
	case "/abort":
		w.Header().Set("content-length", "10")
		io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	default:
		http.NotFound(w, r)
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
