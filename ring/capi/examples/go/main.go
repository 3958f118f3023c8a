// A goroutine receives what the others write, by way of the C API.
//
//	CGO_CFLAGS="-I$PWD/../../include" CGO_LDFLAGS="-L$PWD/../../../../target/debug" go run .
package main

/*
#cgo LDFLAGS: -lfanwire_ring
#include <fanwire_ring.h>
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"unsafe"
)

// The message belongs to the thread of the operating system that made the call, so none may come in between.
func call(what string, run func() uint32) (uint32, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	status := run()
	switch status {
	case C.FANWIRE_RING_STATUS_SUCCESS, C.FANWIRE_RING_STATUS_FULL, C.FANWIRE_RING_STATUS_EMPTY, C.FANWIRE_RING_STATUS_TIMEOUT:
		return status, nil
	}
	return status, errors.New(what + ": " + C.GoString(C.fanwire_ring_last_error()))
}

func write(writer *C.FanwireRingWriter, writerNumber, records int) error {
	for number := 0; number < records; {
		payload := []byte(fmt.Sprintf("%d", number))
		status, err := call("write", func() uint32 {
			return C.fanwire_ring_writer_write(writer, C.uint64_t(writerNumber),
				(*C.uint8_t)(unsafe.Pointer(&payload[0])), C.size_t(len(payload)), nil)
		})
		if err != nil {
			return err
		}
		C.fanwire_ring_writer_wake(writer)
		if status == C.FANWIRE_RING_STATUS_FULL {
			runtime.Gosched()
			continue
		}
		number++
	}
	return nil
}

func run() error {
	const writers, records = 3, 5000
	var ring *C.FanwireRing
	var writer *C.FanwireRingWriter
	var reader *C.FanwireRingReader
	if _, err := call("new", func() uint32 {
		return C.fanwire_ring_new(C.FANWIRE_RING_ABI_VERSION, 1<<16, 1, &ring)
	}); err != nil {
		return err
	}
	defer C.fanwire_ring_free(ring)
	if _, err := call("reader", func() uint32 { return C.fanwire_ring_reader_new(ring, &reader) }); err != nil {
		return err
	}
	defer C.fanwire_ring_reader_free(reader)
	if _, err := call("writer", func() uint32 { return C.fanwire_ring_writer_new(ring, &writer) }); err != nil {
		return err
	}
	var group sync.WaitGroup
	failed := make(chan error, writers)
	for number := 0; number < writers; number++ {
		group.Add(1)
		go func(number int) {
			defer group.Done()
			if err := write(writer, number, records); err != nil {
				failed <- err
			}
		}(number)
	}
	var next [writers]int
	for received := 0; received < writers*records; {
		var record C.FanwireRingRecord
		status, err := call("next", func() uint32 { return C.fanwire_ring_reader_next(reader, &record) })
		if err != nil {
			return err
		}
		if status == C.FANWIRE_RING_STATUS_EMPTY {
			if status, err = call("wait", func() uint32 {
				return C.fanwire_ring_reader_wait(reader, 100, 30_000_000_000)
			}); err != nil {
				return err
			}
			continue
		}
		payload := C.GoBytes(unsafe.Pointer(record.payload), C.int(record.payload_bytes))
		from := int(record.tag)
		if string(payload) != fmt.Sprintf("%d", next[from]) {
			return fmt.Errorf("writer %d: %s instead of %d", from, payload, next[from])
		}
		next[from]++
		received++
		C.fanwire_ring_reader_advance(reader)
	}
	group.Wait()
	C.fanwire_ring_writer_free(writer)
	select {
	case err := <-failed:
		return err
	default:
	}
	fmt.Printf("received %d records of %d goroutines in order\n", writers*records, writers)
	return nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
