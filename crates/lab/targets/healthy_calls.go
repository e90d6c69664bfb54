// A healthy client: five calls a second, each of which is answered within ten milliseconds.
package main

import (
	"fmt"
	"io"
	"net/http"
	"time"
)

func main() {
	client := &http.Client{Timeout: 5 * time.Second}
	for turn := 0; ; turn++ {
		response := must(client.Get("http://" + peer() + "/price"))
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if turn == 1 {
			fmt.Println("ready")
		}
		time.Sleep(200 * time.Millisecond)
	}
}
