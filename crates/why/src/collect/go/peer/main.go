// A program whose goroutines are looked at. It does what it is told, a line a time, and says `ok` when it is done:
//
//	leak N     N goroutines that hold memory and wait for what never comes
//	leave N    N goroutines that each hand over an answer that nobody takes
//	backlog N  N goroutines that wait for a lock which another holds
//	serve N    N goroutines that come and go
//	spin       a goroutine that computes
//	deep N     a goroutine that waits below N calls
//	dial N     N goroutines that wait for an answer from a peer of their own
//	collect    a collection
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
)

var (
	never = make(chan int)
	lock  sync.Mutex
	spun  int
	peers []net.Listener // One that nobody refers to any more is closed.
)

func leaked(held []byte) {
	<-never
	runtime.KeepAlive(held)
}

func leak(n int) {
	for i := 0; i < n; i++ {
		go leaked(make([]byte, 16<<10))
	}
}

func left(answer chan<- int) {
	answer <- 1
}

func enter() {
	lock.Lock()
	defer lock.Unlock()
}

func serve(n int) {
	var all sync.WaitGroup
	for i := 0; i < n; i++ {
		all.Add(1)
		go func() { all.Done() }()
	}
	all.Wait()
}

//go:noinline
func deep(n int, large [256]byte) byte {
	if n == 0 {
		<-never
		return large[0]
	}
	return deep(n-1, large) + large[n]
}

func read(at string) {
	peer, err := net.Dial("tcp", at)
	if err != nil {
		panic(err)
	}
	var answer [1]byte
	peer.Read(answer[:])
}

func main() {
	lock.Lock()
	orders := bufio.NewScanner(os.Stdin)
	for orders.Scan() {
		var what string
		var n int
		fmt.Sscan(orders.Text(), &what, &n)
		switch what {
		case "leak":
			leak(n)
		case "leave":
			for i := 0; i < n; i++ {
				go left(make(chan int))
			}
		case "backlog":
			for i := 0; i < n; i++ {
				go enter()
			}
		case "serve":
			serve(n)
		case "spin":
			go func() {
				for {
					spun++
				}
			}()
		case "deep":
			go deep(n, [256]byte{})
		case "dial":
			peer, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				panic(err)
			}
			peers = append(peers, peer)
			for i := 0; i < n; i++ {
				go read(peer.Addr().String())
			}
		}
		// What is not kept is given back, and waits are noted.
		runtime.GC()
		runtime.GC()
		fmt.Println("ok")
	}
}
