// A client whose downloads stop in the middle: it gives each 2.5 seconds, and tries again.
package main

import (
	"io"
	"net/http"
	"time"
)

func main() {
	client := &http.Client{Timeout: 2500 * time.Millisecond}
	for {
		response := must(client.Get("http://" + peer() + "/archive"))
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
	}
}
