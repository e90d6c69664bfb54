// Go's net/http under a closed loop of requests: URL CONNECTIONS REQUESTS [trace]. Prints what one request cost.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptrace"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 4 {
		log.Fatal("usage: URL CONNECTIONS REQUESTS [trace]")
	}
	url := os.Args[1]
	connections, err := strconv.Atoi(os.Args[2])
	check(err)
	requests, err := strconv.Atoi(os.Args[3])
	check(err)
	requests = (requests + connections - 1) / connections * connections
	trace := len(os.Args) > 4

	client := &http.Client{Transport: &http.Transport{
		MaxIdleConns:        connections,
		MaxIdleConnsPerHost: connections,
		MaxConnsPerHost:     connections,
	}}
	run(client, url, connections, requests/10, trace)
	connected := sockets()

	user, system := cpu()
	began := time.Now()
	run(client, url, connections, requests, trace)
	wall := time.Since(began)
	userEnd, systemEnd := cpu()

	if !maps.Equal(sockets(), connected) {
		log.Fatal("connections were not kept, but replaced by others")
	}
	if len(connected) < connections {
		log.Fatalf("%d connections instead of %d", len(connected), connections)
	}
	each := func(time time.Duration) float64 { return float64(time.Nanoseconds()) / 1e3 / float64(requests) }
	fmt.Printf(`{"cpu_us":%f,"user_us":%f,"system_us":%f,"wall_us":%f}`+"\n",
		each(userEnd-user+systemEnd-system), each(userEnd-user), each(systemEnd-system), each(wall))
}

func run(client *http.Client, url string, connections, requests int, trace bool) {
	var workers sync.WaitGroup
	for range connections {
		workers.Go(func() {
			for range (requests + connections - 1) / connections {
				get(client, url, trace)
			}
		})
	}
	workers.Wait()
}

// When each stage of a request began and ended.
type stages struct {
	getConn, gotConn, dns, dnsDone, connect, connectDone, tls, tlsDone, wroteHeaders, wroteRequest, firstByte time.Time
}

func get(client *http.Client, url string, trace bool) {
	ctx := context.Background()
	if trace {
		var at stages
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			GetConn:              func(string) { at.getConn = time.Now() },
			GotConn:              func(httptrace.GotConnInfo) { at.gotConn = time.Now() },
			DNSStart:             func(httptrace.DNSStartInfo) { at.dns = time.Now() },
			DNSDone:              func(httptrace.DNSDoneInfo) { at.dnsDone = time.Now() },
			ConnectStart:         func(string, string) { at.connect = time.Now() },
			ConnectDone:          func(string, string, error) { at.connectDone = time.Now() },
			TLSHandshakeStart:    func() { at.tls = time.Now() },
			TLSHandshakeDone:     func(tls.ConnectionState, error) { at.tlsDone = time.Now() },
			WroteHeaders:         func() { at.wroteHeaders = time.Now() },
			WroteRequest:         func(httptrace.WroteRequestInfo) { at.wroteRequest = time.Now() },
			GotFirstResponseByte: func() { at.firstByte = time.Now() },
		})
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	check(err)
	response, err := client.Do(request)
	check(err)
	if response.StatusCode != http.StatusOK {
		log.Fatal(response.Status)
	}
	_, err = io.Copy(io.Discard, response.Body)
	check(err)
	check(response.Body.Close())
}

func cpu() (user, system time.Duration) {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano()), time.Duration(usage.Stime.Nano())
}

func sockets() map[string]bool {
	entries, err := os.ReadDir("/proc/self/fd")
	check(err)
	open := map[string]bool{}
	for _, entry := range entries {
		link, err := os.Readlink("/proc/self/fd/" + entry.Name())
		if err == nil && strings.HasPrefix(link, "socket:") {
			open[link] = true
		}
	}
	return open
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
