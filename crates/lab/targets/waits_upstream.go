// Four workers call one upstream, which takes three seconds for an answer.
package main

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

func main() {
	client := &http.Client{Timeout: 30 * time.Second}
	var first sync.Once
	work := func() {
		for {
			response := must(client.Get("http://" + peer() + "/price"))
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
			first.Do(func() { fmt.Println("ready") })
		}
	}
	for range 3 {
		go work()
	}
	work()
}
