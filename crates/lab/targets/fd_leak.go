// A client that does not close the body of an answer: each call, four in a second, keeps its connection and two
// goroutines for ever. The limit is 256 descriptors.
package main

import (
	"fmt"
	"net/http"
	"os"
	"syscall"
	"time"
)

func fetchPrice() {
	response, err := http.Get("http://" + peer() + "/price")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	// defer response.Body.Close() is missing.
	_ = response.StatusCode
}

func main() {
	var limit syscall.Rlimit
	must(0, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	limit.Cur = 256
	must(0, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
	for turn := 0; ; turn++ {
		fetchPrice()
		if turn == 4 {
			fmt.Println("ready")
		}
		time.Sleep(250 * time.Millisecond)
	}
}
