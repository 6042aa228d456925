// Go's net/http: a handler that hijacks the connection, and goes on reading from the buffer that it gets.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
)

// lists tells whether an element of a field's lines is what is wanted.
func lists(lines []string, wanted string) bool {
	for _, element := range strings.Split(strings.Join(lines, ","), ",") {
		if strings.EqualFold(strings.TrimSpace(element), wanted) {
			return true
		}
	}
	return false
}

func echo(w http.ResponseWriter, r *http.Request) {
	if !r.ProtoAtLeast(1, 1) || !lists(r.Header["Connection"], "upgrade") || !lists(r.Header["Upgrade"], "echo") {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "echo")
		http.Error(w, "The token here is echo.", http.StatusUpgradeRequired)
		return
	}
	io.Copy(io.Discard, r.Body)
	conn, buffer, err := w.(http.Hijacker).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	fmt.Fprint(buffer, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	buffer.Flush()
	io.Copy(conn, buffer.Reader)
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/echo", echo)
	fmt.Println("ready")
	log.Fatal(http.Serve(listener, nil))
}
