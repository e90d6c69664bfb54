package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
)

// Go ignores the alarm by which every other target ends.
func init() {
	alarm := make(chan os.Signal, 1)
	signal.Notify(alarm, syscall.SIGALRM)
	go func() {
		<-alarm
		os.Exit(0)
	}()
}

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return value
}

// Listens on a free port of loopback and tells the harness which.
func listen() net.Listener {
	listener := must(net.Listen("tcp4", "127.0.0.1:0"))
	fmt.Println("listening", listener.Addr().(*net.TCPAddr).Port)
	return listener
}

func peer() string {
	return "127.0.0.1:" + os.Args[1]
}
