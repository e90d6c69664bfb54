// A client in the middle of a body, with a limit of a minute for the whole call.
package main

import (
	"io"
	"net/http"
	"time"
)

func main() {
	client := &http.Client{Timeout: time.Minute}
	for {
		response := must(client.Get("http://" + peer() + "/archive"))
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
	}
}
