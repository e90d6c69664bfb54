// A client in the middle of a TLS handshake, with a limit of a minute.
package main

import (
	"crypto/tls"
	"net"
	"time"
)

func main() {
	dialer := &net.Dialer{Timeout: time.Minute}
	for {
		connection, err := tls.DialWithDialer(dialer, "tcp4", peer(), &tls.Config{ServerName: "lab.test"})
		if err == nil {
			connection.Close()
		}
	}
}
