// What context.WithTimeout costs: THREADS OPERATIONS. All goroutines share one parent.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: THREADS OPERATIONS")
	}
	threads, err := strconv.Atoi(os.Args[1])
	check(err)
	operations, err := strconv.Atoi(os.Args[2])
	check(err)

	parent, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	run(parent, threads, operations/10)
	used, began := cpu(), time.Now()
	run(parent, threads, operations)
	wall := time.Since(began)
	used = cpu() - used
	fmt.Printf(`{"create_cpu_ns":%f,"create_wall_ns":%f}`+"\n",
		float64(used.Nanoseconds())/float64(operations*threads), float64(wall.Nanoseconds())/float64(operations))
}

func run(parent context.Context, threads, operations int) {
	var running sync.WaitGroup
	for range threads {
		running.Go(func() {
			for range operations {
				ctx, cancel := context.WithTimeout(parent, time.Minute)
				if ctx.Err() != nil {
					log.Fatal(ctx.Err())
				}
				cancel()
			}
		})
	}
	running.Wait()
}

func cpu() time.Duration {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
