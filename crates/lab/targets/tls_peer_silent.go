// A client whose TLS handshakes get no answer: it gives each the time of its first argument, and tries again.
package main

import (
	"crypto/tls"
	"net"
	"os"
	"time"
)

func main() {
	dialer := &net.Dialer{Timeout: must(time.ParseDuration(os.Args[1]))}
	for {
		connection, err := tls.DialWithDialer(dialer, "tcp4", "127.0.0.1:"+os.Args[2], &tls.Config{ServerName: "lab.test"})
		if err == nil {
			connection.Close()
		}
	}
}
