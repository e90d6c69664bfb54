// A client whose TLS handshakes get no answer: it gives each 2.5 seconds, and tries again.
package main

import (
	"crypto/tls"
	"net"
	"time"
)

func main() {
	dialer := &net.Dialer{Timeout: 2500 * time.Millisecond}
	for {
		connection, err := tls.DialWithDialer(dialer, "tcp4", peer(), &tls.Config{ServerName: "lab.test"})
		if err == nil {
			connection.Close()
		}
	}
}
