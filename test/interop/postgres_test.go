package interop

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/stdlib"
)

// postgres is as much of a PostgreSQL server as a client needs to talk to one:
// the protocol is real, the SQL is not. It knows three statements:
//
//	SELECT n FROM numbers   the numbers 1 to $1
//	SELECT hang             nothing, until it is cancelled
//	copy … from stdin       takes rows and counts them
type postgres struct {
	mu      sync.Mutex // guards cancels
	cancels map[uint32]chan struct{}
}

// servePostgres runs a server until the test ends.
func servePostgres(t *testing.T, tr transport) net.Addr {
	t.Helper()
	p := &postgres{cancels: map[uint32]chan struct{}{}}
	ln := tr.listen(t)
	var sessions sync.WaitGroup
	sessions.Go(func() {
		for id := uint32(1); ; id++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			sessions.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(testTimeout))
				if err := p.session(c, id); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("session %d: %v", id, err)
				}
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		sessions.Wait()
	})
	return ln.Addr()
}

func (p *postgres) session(c net.Conn, id uint32) error {
	be := pgproto3.NewBackend(c, c)
	start, err := be.ReceiveStartupMessage()
	if err != nil {
		return err
	}
	if cancel, ok := start.(*pgproto3.CancelRequest); ok {
		p.mu.Lock()
		defer p.mu.Unlock()
		if ch, ok := p.cancels[cancel.ProcessID]; ok {
			close(ch)
			delete(p.cancels, cancel.ProcessID)
		}
		return nil
	}
	cancelled := make(chan struct{})
	p.mu.Lock()
	p.cancels[id] = cancelled
	p.mu.Unlock()
	be.Send(&pgproto3.AuthenticationOk{})
	be.Send(&pgproto3.ParameterStatus{Name: "server_version", Value: "15.0"})
	be.Send(&pgproto3.ParameterStatus{Name: "client_encoding", Value: "UTF8"})
	be.Send(&pgproto3.ParameterStatus{Name: "standard_conforming_strings", Value: "on"})
	be.Send(&pgproto3.BackendKeyData{ProcessID: id, SecretKey: []byte{0, 0, 0, byte(id)}})
	be.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})

	columns := []pgproto3.FieldDescription{{Name: []byte("n"), DataTypeOID: 20, DataTypeSize: 8, TypeModifier: -1}}
	var statement string
	var rows int
	for {
		if err := be.Flush(); err != nil {
			return err
		}
		msg, err := be.Receive()
		if err != nil {
			return err
		}
		switch msg := msg.(type) {
		case *pgproto3.Terminate:
			return nil
		case *pgproto3.Parse:
			statement = msg.Query
			be.Send(&pgproto3.ParseComplete{})
		case *pgproto3.Describe:
			if msg.ObjectType == 'S' {
				be.Send(&pgproto3.ParameterDescription{ParameterOIDs: []uint32{25}[:countParameters(statement)]})
			}
			be.Send(&pgproto3.RowDescription{Fields: columns})
		case *pgproto3.Bind:
			rows = 0
			if len(msg.Parameters) == 1 {
				if rows, err = strconv.Atoi(string(msg.Parameters[0])); err != nil {
					return err
				}
			}
			be.Send(&pgproto3.BindComplete{})
		case *pgproto3.Execute:
			for i := range rows {
				be.Send(&pgproto3.DataRow{Values: [][]byte{binary.BigEndian.AppendUint64(nil, uint64(i+1))}})
				if i%1000 == 999 {
					if err := be.Flush(); err != nil {
						return err
					}
				}
			}
			be.Send(&pgproto3.CommandComplete{CommandTag: fmt.Appendf(nil, "SELECT %d", rows)})
		case *pgproto3.Sync:
			be.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		case *pgproto3.Close:
			be.Send(&pgproto3.CloseComplete{})
		case *pgproto3.Query:
			switch {
			case strings.HasPrefix(msg.String, "copy "):
				be.Send(&pgproto3.CopyInResponse{OverallFormat: 1, ColumnFormatCodes: []uint16{1}})
				if err := be.Flush(); err != nil {
					return err
				}
				n, err := copyIn(be)
				if err != nil {
					return err
				}
				be.Send(&pgproto3.CommandComplete{CommandTag: fmt.Appendf(nil, "COPY %d", n)})
			case msg.String == "SELECT hang":
				// The client may be gone before its request to cancel comes: the driver sends it
				// in the background, and the test may be over.
				gone := make(chan struct{})
				go func() {
					defer close(gone)
					be.Receive()
				}()
				select {
				case <-cancelled:
				case <-gone:
					return nil
				}
				be.Send(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "57014", Message: "canceling statement due to user request"})
				err := be.Flush()
				<-gone // the driver does not use the connection again
				return err
			default:
				be.Send(&pgproto3.EmptyQueryResponse{})
			}
			be.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		default:
			return fmt.Errorf("unexpected message %T", msg)
		}
	}
}

func countParameters(statement string) int {
	if statement == "SELECT n FROM numbers" {
		return 1
	}
	return 0
}

// copyIn takes rows of one 8-byte column in the binary format, which fixes their
// length, and returns how many there were.
func copyIn(be *pgproto3.Backend) (int, error) {
	const header, row = 19, 2 + 4 + 8
	size := 0
	for {
		msg, err := be.Receive()
		if err != nil {
			return 0, err
		}
		switch msg := msg.(type) {
		case *pgproto3.CopyData:
			size += len(msg.Data)
		case *pgproto3.CopyDone:
			if (size-header)%row != 0 {
				return 0, fmt.Errorf("COPY brought %d bytes, which are no whole number of rows", size)
			}
			return (size - header) / row, nil
		default:
			return 0, fmt.Errorf("unexpected message %T in COPY", msg)
		}
	}
}

// openPostgres returns a pool whose connections go through a proxy.
func openPostgres(t *testing.T, tr transport) *sql.DB {
	t.Helper()
	addr := proxy(t, tr, tr, servePostgres(t, tr))
	config, err := pgx.ParseConfig("postgres://user@" + addr.String() + "/db?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	config.DialFunc = tr.dial
	db := stdlib.OpenDB(*config)
	t.Cleanup(func() { db.Close() })
	return db
}

func TestPostgresQuery(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		db, ctx := openPostgres(t, tr), within(t)
		var wg sync.WaitGroup
		for _, n := range []int{0, 1, 100, 50_000, 50_000} {
			wg.Go(func() {
				rows, err := db.QueryContext(ctx, "SELECT n FROM numbers", strconv.Itoa(n))
				if err != nil {
					t.Error(err)
					return
				}
				defer rows.Close()
				var got []int
				for rows.Next() {
					var v int
					if err := rows.Scan(&v); err != nil {
						t.Error(err)
						return
					}
					got = append(got, v)
				}
				want := make([]int, n)
				for i := range want {
					want[i] = i + 1
				}
				if rows.Err() != nil || !slices.Equal(got, want) {
					t.Errorf("got %d rows, %v; want the numbers 1 to %d", len(got), rows.Err(), n)
				}
			})
		}
		wg.Wait()
	})
}

// TestPostgresCancel cancels a query, for which a client opens a second
// connection while the first waits.
func TestPostgresCancel(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		db := openPostgres(t, tr)
		ctx, cancel := context.WithTimeout(within(t), 20*time.Millisecond)
		defer cancel()
		_, err := db.ExecContext(ctx, "SELECT hang")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
		}
		if err := db.PingContext(within(t)); err != nil {
			t.Errorf("after a cancelled query: %v", err)
		}
	})
}

func TestPostgresCopy(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		db, ctx := openPostgres(t, tr), within(t)
		conn, err := db.Conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		const want = 200_000
		err = conn.Raw(func(c any) error {
			got, err := c.(*stdlib.Conn).Conn().CopyFrom(ctx, pgx.Identifier{"numbers"}, []string{"n"},
				pgx.CopyFromSlice(want, func(i int) ([]any, error) { return []any{int64(i)}, nil }))
			if got != want {
				t.Errorf("COPY took %d rows, want %d", got, want)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}
