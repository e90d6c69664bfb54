// Each of fifty requests a second starts a goroutine that wants to hand over its answer, 16 KiB, to a caller who has
// gone: nobody ever receives it.
package main

import (
	"fmt"
	"time"
)

func search() <-chan []byte {
	answer := make(chan []byte)
	go func() {
		page := make([]byte, 16<<10)
		for i := range page {
			page[i] = byte(i)
		}
		answer <- page
	}()
	return answer
}

func main() {
	for turn := 0; ; turn++ {
		select {
		case <-search():
		default: // The caller does not wait.
		}
		if turn == 50 {
			fmt.Println("ready")
		}
		time.Sleep(20 * time.Millisecond)
	}
}
