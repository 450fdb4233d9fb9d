package pgtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"testing"

	"github.com/go-lifeguard/lifeguard/internal/localserver"
)

// StartTLS is Start with a server whose connections can be encrypted, and whose DSNs ask for that. Its certificate is
// signed by nobody.
func StartTLS(tb testing.TB, settings ...string) *Server {
	tb.Helper()
	certified := func(s *Server, bin string, account *localserver.Account) error {
		if err := s.initialize(bin, account); err != nil {
			return err
		}
		key, certificate, err := selfSigned()
		if err == nil {
			_, err = s.folder.WriteFile("data/server.key", key)
		}
		if err == nil {
			_, err = s.folder.WriteFile("data/server.crt", certificate)
		}
		return err
	}
	s, err := launch(certified, append(settings, "ssl=on"))
	if err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	s.url.RawQuery = "sslmode=require"
	tb.Cleanup(func() {
		if err := s.remove(); err != nil {
			tb.Errorf("pgtest: %v", err)
		}
	})
	return s
}

// selfSigned makes a key and its certificate, in the form in which a server reads them.
func selfSigned() (key, certificate string, err error) {
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		return "", "", err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	certificateDER, err := x509.CreateCertificate(rand.Reader, template, template, &own.PublicKey, own)
	if err != nil {
		return "", "", err
	}
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return encode("PRIVATE KEY", keyDER), encode("CERTIFICATE", certificateDER), nil
}
