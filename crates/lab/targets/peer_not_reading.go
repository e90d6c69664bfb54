// A client that uploads, with a limit of a minute, to a peer that does not read.
package main

import (
	"net"
	"time"
)

func upload() {
	connection := must(net.Dial("tcp4", peer()))
	defer connection.Close()
	connection.SetDeadline(time.Now().Add(time.Minute))
	block := make([]byte, 64<<10)
	for {
		if _, err := connection.Write(block); err != nil {
			return
		}
	}
}

func main() {
	for {
		upload()
	}
}
