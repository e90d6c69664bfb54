// A server that is told how long its caller waits (half a second, by grpc-timeout), and works for three seconds all
// the same.
package main

import (
	"fmt"
	"net/http"
	"sync"
	"time"
)

func main() {
	var first sync.Once
	listener := listen()
	must(0, http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		for range 30 { // Whether the caller waits still is asked by nobody.
			time.Sleep(100 * time.Millisecond)
			if r.Header.Get("grpc-timeout") == "500m" && time.Since(began) > 500*time.Millisecond {
				first.Do(func() { fmt.Println("ready") })
			}
		}
		w.WriteHeader(http.StatusOK)
	})))
}
