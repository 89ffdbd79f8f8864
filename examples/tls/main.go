// Tls serves HTTPS, HTTP/2 included. crypto/tls takes the listener as it takes
// any other. Without -cert and -key it makes a certificate for localhost that
// lives as long as the process.
//
//	go run ./examples/tls
//	curl -k https://localhost:8443/
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"log"
	"math/big"
	"net/http"
	"os/signal"
	"syscall"
	"time"

	"github.com/gotpa/tpa/accel"
)

func main() {
	addr := flag.String("addr", ":8443", "where to listen")
	certFile := flag.String("cert", "", "certificate file, PEM")
	keyFile := flag.String("key", "", "key file, PEM")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello over %s, %s\n", r.Proto, tls.VersionName(r.TLS.Version))
	})}
	if *certFile == "" {
		cert, err := selfSigned("localhost")
		if err != nil {
			log.Fatal(err)
		}
		srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
	}
	ln, err := accel.Listen("tcp", *addr) // was net.Listen
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("serving https://%v", ln.Addr())
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	if err := srv.ServeTLS(ln, *certFile, *keyFile); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	if rt := accel.SetDefault(nil); rt != nil {
		rt.Close() // gives the device back and removes the debug socket
	}
}

func selfSigned(name string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name},
		NotBefore: time.Now(), NotAfter: time.Now().AddDate(0, 0, 7),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
