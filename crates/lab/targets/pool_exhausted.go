// A server whose handlers forget to close what they read: two of them have kept the two connections of its pool, and the
// others wait for one.
package main

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
)

const (
	places = 2
	hung   = 4
)

// A database in memory, of which each query has one row.
type memory struct{}

func (memory) Open(string) (driver.Conn, error)           { return memory{}, nil }
func (memory) Prepare(string) (driver.Stmt, error)        { return memory{}, nil }
func (memory) Begin() (driver.Tx, error)                  { return nil, errors.ErrUnsupported }
func (memory) NumInput() int                              { return 0 }
func (memory) Exec([]driver.Value) (driver.Result, error) { return nil, errors.ErrUnsupported }
func (memory) Query([]driver.Value) (driver.Rows, error)  { return memory{}, nil }
func (memory) Columns() []string                          { return []string{"price"} }
func (memory) Next(values []driver.Value) error           { values[0] = int64(42); return nil }
func (memory) Close() error                               { return nil }

var (
	database *sql.DB
	waiting  atomic.Int64
)

func search(answer http.ResponseWriter, _ *http.Request) {
	// None is ever given back, so this one is here for good.
	if database.Stats().InUse == places && waiting.Add(1) == hung {
		fmt.Println("ready")
	}
	rows := must(database.Query("SELECT price"))
	// And no rows.Close().
	rows.Next()
	answer.WriteHeader(http.StatusNoContent)
}

func main() {
	sql.Register("memory", memory{})
	database = must(sql.Open("memory", ""))
	database.SetMaxOpenConns(places)
	must(0, http.Serve(listen(), http.HandlerFunc(search)))
}
