// Fifty goroutines more each second wait for the one permit; who holds it waits for a peer that does not answer.
package main

import (
	"fmt"
	"net"
	"time"
)

var permit = make(chan struct{}, 1)

func reserveStock() {
	permit <- struct{}{}
	defer func() { <-permit }()
	warehouse := must(net.Dial("tcp4", peer()))
	defer warehouse.Close()
	warehouse.SetDeadline(time.Now().Add(100 * time.Second))
	warehouse.Write([]byte("GET /stock HTTP/1.1\r\nhost: lab\r\n\r\n"))
	warehouse.Read(make([]byte, 2048))
}

func main() {
	for turn := 0; ; turn++ {
		go reserveStock()
		if turn == 50 {
			fmt.Println("ready")
		}
		time.Sleep(20 * time.Millisecond)
	}
}
