// Counts its requests in memory.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"sync/atomic"
)

func main() {
	var requests atomic.Int64
	http.HandleFunc("/", func(response http.ResponseWriter, request *http.Request) {
		fmt.Fprintf(response, "request %d\n", requests.Add(1))
	})
	log.Fatal(http.ListenAndServe(":"+os.Getenv("PORT"), nil))
}
