// A healthy server: an answer to each request.
package main

import (
	"fmt"
	"net/http"
)

func main() {
	listener := listen()
	fmt.Println("ready")
	must(0, http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "hello")
	})))
}
