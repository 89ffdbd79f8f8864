package interop

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/gotpa/tpa/internal/testnet"
)

// A PostgreSQL server of the machine's, behind a proxy of ours. It listens on a
// socket in a folder of its own and nowhere else.

// postgresTools finds the programs: Debian keeps them out of PATH.
var postgresTools = sync.OnceValues(func() (dir string, err error) {
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.Reverse(dirs) // the newest first, as long as versions have two digits
	if path, err := exec.LookPath("initdb"); err == nil {
		dirs = append(dirs, filepath.Dir(path))
	}
	for _, dir := range dirs {
		if _, err := exec.LookPath(filepath.Join(dir, "postgres")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("initdb is neither in PATH nor in /usr/lib/postgresql/*/bin")
})

var postgresInstalled = testnet.Requirement{
	Name:  "PostgreSQL",
	Probe: func() error { _, err := postgresTools(); return err },
	Fix:   "make deps, or apt-get install postgresql",
}

// unprivileged is whom PostgreSQL runs as, which refuses to run as root: nil for
// the user of the test.
func unprivileged(t *testing.T) *syscall.Credential {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			t.Fatal(err)
		}
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// startPostgres starts a server that ends with the test, and with its process. It
// returns the path of its socket.
func startPostgres(t *testing.T) string {
	t.Helper()
	testnet.Need(t, postgresInstalled)
	tools, err := postgresTools()
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: only this process's user may enter it.
	dir, err := os.MkdirTemp("", "tpa-postgres-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	attr := &syscall.SysProcAttr{Credential: unprivileged(t)}
	if c := attr.Credential; c != nil {
		if err := os.Chown(dir, int(c.Uid), int(c.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	data := filepath.Join(dir, "data")
	init := exec.CommandContext(t.Context(), filepath.Join(tools, "initdb"),
		"-D", data, "-U", "user", "--auth=trust", "--no-sync", "--no-locale", "--encoding=UTF8")
	init.Dir, init.SysProcAttr = dir, attr
	if out, err := init.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}

	var log bytes.Buffer
	server := exec.Command(filepath.Join(tools, "postgres"), "-D", data, "-k", dir,
		"-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=40", "-c", "shared_buffers=16MB")
	server.Dir, server.Stdout, server.Stderr = dir, &log, &log
	server.SysProcAttr = &syscall.SysProcAttr{Credential: attr.Credential, Pdeathsig: syscall.SIGQUIT}
	started, ended := make(chan error), make(chan error, 1)
	go func() {
		// The signal comes when the thread ends that started the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := server.Start()
		started <- err
		if err == nil {
			ended <- server.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Signal(syscall.SIGINT) // ends sessions, and then the server
		select {
		case <-ended:
		case <-time.After(testTimeout):
			server.Process.Signal(syscall.SIGQUIT) // without a checkpoint
			<-ended
			t.Errorf("the server did not end within %v", testTimeout)
		}
		if t.Failed() {
			t.Logf("the server says:\n%s", &log)
		}
	})

	socket := filepath.Join(dir, ".s.PGSQL.5432")
	for deadline := time.Now().Add(testTimeout); ; time.Sleep(10 * time.Millisecond) {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the server ended: %v\n%s", err, &log)
		default:
		}
		ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
		c, err := pgconn.Connect(ctx, "host="+dir+" port=5432 user=user dbname=postgres")
		cancel()
		if err == nil {
			c.Close(t.Context())
			return socket
		}
		if time.Now().After(deadline) {
			t.Fatalf("no connection to the server: %v", err)
		}
	}
}

// overPostgres runs f over each transport, with a pool of connections to a server
// through a proxy.
func overPostgres(t *testing.T, f func(t *testing.T, db *sql.DB)) {
	socket := startPostgres(t)
	behind := transport{dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	overTransports(t, func(t *testing.T, tr transport) {
		addr := proxy(t, tr, behind, &net.UnixAddr{Name: socket})
		config, err := pgx.ParseConfig("postgres://user@" + addr.String() + "/postgres?sslmode=disable")
		if err != nil {
			t.Fatal(err)
		}
		config.DialFunc = tr.dial
		db := stdlib.OpenDB(*config)
		t.Cleanup(func() { db.Close() })
		f(t, db)
	})
}

// TestPostgreSQL is a program that stores and finds again, with what that can
// meet: many sessions, large values, a roll-back, a cancelled query, a session
// that the server ends.
func TestPostgreSQL(t *testing.T) {
	overPostgres(t, func(t *testing.T, db *sql.DB) {
		ctx := within(t)
		scan := func(dst any, query string, args ...any) {
			t.Helper()
			if err := db.QueryRowContext(ctx, query, args...).Scan(dst); err != nil {
				t.Errorf("%s: %v", query, err)
			}
		}
		exec := func(query string, args ...any) {
			t.Helper()
			if _, err := db.ExecContext(ctx, query, args...); err != nil {
				t.Fatalf("%s: %v", query, err)
			}
		}
		exec("DROP TABLE IF EXISTS numbers")
		exec("CREATE TABLE numbers (n bigint)")

		// COPY, by which a client sends as fast as the server takes.
		const rows = 100_000
		conn, err := db.Conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		err = conn.Raw(func(c any) error {
			n, err := c.(*stdlib.Conn).Conn().CopyFrom(ctx, pgx.Identifier{"numbers"}, []string{"n"},
				pgx.CopyFromSlice(rows, func(i int) ([]any, error) { return []any{int64(i + 1)}, nil }))
			if n != rows {
				t.Errorf("COPY took %d rows, want %d", n, rows)
			}
			return err
		})
		if err := errors.Join(err, conn.Close()); err != nil {
			t.Fatal(err)
		}

		var sessions sync.WaitGroup
		for i := range 8 {
			sessions.Go(func() {
				var n, sum int
				scan(&n, "SELECT count(*) FROM numbers WHERE n % 8 = $1", i)
				if n != rows/8 {
					t.Errorf("%d rows, want %d", n, rows/8)
				}
				list, err := db.QueryContext(ctx, "SELECT n FROM numbers ORDER BY n LIMIT 20000")
				if err != nil {
					t.Error(err)
					return
				}
				defer list.Close()
				for list.Next() {
					var v int
					if err := list.Scan(&v); err != nil {
						t.Error(err)
						return
					}
					sum += v
				}
				if want := 20000 * 20001 / 2; list.Err() != nil || sum != want {
					t.Errorf("the sum of 20,000 rows is %d, %v; want %d", sum, list.Err(), want)
				}
			})
		}
		sessions.Wait()

		// A value of megabytes, there and back.
		value := bytes.Repeat([]byte("value of megabytes "), 200_000)
		var sum string
		scan(&sum, "SELECT encode(sha256($1::bytea), 'hex')", value)
		if want := sha256.Sum256(value); sum != hex.EncodeToString(want[:]) {
			t.Error("the server got another value")
		}
		var back []byte
		scan(&back, "SELECT $1::bytea", value)
		if !bytes.Equal(back, value) {
			t.Errorf("got %d bytes back, want the %d that were sent", len(back), len(value))
		}

		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM numbers"); err != nil {
			t.Error(err)
		}
		if err := tx.Rollback(); err != nil {
			t.Error(err)
		}
		var n int
		if scan(&n, "SELECT count(*) FROM numbers"); n != rows {
			t.Errorf("%d rows after a roll-back, want %d", n, rows)
		}
		_, err = db.ExecContext(ctx, "SELECT nothing FROM nowhere")
		if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "42P01" {
			t.Errorf("a query of no table: %v, want error 42P01", err)
		}

		// A client cancels by a second connection while the first waits.
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		_, err = db.ExecContext(short, "SELECT pg_sleep(60)")
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a cancelled query: %v, want %v", err, context.DeadlineExceeded)
		}

		// The server ends a session: what waits there hears of it, others go on.
		victim, err := db.Conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var pid int
		if err := victim.QueryRowContext(ctx, "SELECT pg_backend_pid()").Scan(&pid); err != nil {
			t.Fatal(err)
		}
		exec(fmt.Sprintf("SELECT pg_terminate_backend(%d)", pid))
		if err := victim.PingContext(ctx); err == nil {
			t.Error("a session that the server has ended goes on")
		}
		victim.Close()
		if scan(&n, "SELECT 1"); n != 1 {
			t.Errorf("got %d from a new session, want 1", n)
		}
	})
}
