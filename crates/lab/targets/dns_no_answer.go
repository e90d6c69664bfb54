// A program that looks up a name. The only name server never answers.
package main

import "net"

func main() {
	for {
		net.LookupHost("db.lab.test")
	}
}
