// A server whose handlers wait for a lock: the goroutine that took it returned early, and never gave it back.
package main

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
)

const hung = 4

var (
	table sync.Mutex
	came  atomic.Int64
)

func lookUp(answer http.ResponseWriter, _ *http.Request) {
	if came.Add(1) == hung {
		fmt.Println("ready")
	}
	table.Lock()
	defer table.Unlock()
	answer.WriteHeader(http.StatusNoContent)
}

func main() {
	table.Lock()
	must(0, http.Serve(listen(), http.HandlerFunc(lookUp)))
}
