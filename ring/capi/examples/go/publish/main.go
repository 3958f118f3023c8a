// Publishes into a running fanwire through shared memory.
//
//	CGO_CFLAGS="-I$PWD/../../include" CGO_LDFLAGS="-L$PWD/../../../../target/debug" go run ./publish /dev/shm/fanwire news 1000
package main

/*
#cgo LDFLAGS: -lfanwire_ring
#include <stdlib.h>
#include <fanwire_ring.h>

// The pointers in a structure of C must not be those of Go, so it is filled here.
static uint32_t publish(const FanwireRingPublisher *publisher, _GoString_ channel, _GoString_ kind,
                        _GoString_ data, uint64_t timeout_ms) {
    FanwireRingPublication publication = {0};
    publication.channel.text = _GoStringPtr(channel);
    publication.channel.bytes = _GoStringLen(channel);
    publication.kind.text = _GoStringPtr(kind);
    publication.kind.bytes = _GoStringLen(kind);
    publication.data = (const uint8_t *)_GoStringPtr(data);
    publication.data_bytes = _GoStringLen(data);
    return fanwire_ring_publisher_publish(publisher, &publication, timeout_ms);
}
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"unsafe"
)

func check(what string, status uint32) error {
	if status == C.FANWIRE_RING_STATUS_SUCCESS {
		return nil
	}
	return errors.New(what + ": " + C.GoString(C.fanwire_ring_last_error()))
}

func run(socket, channel string, numbers int) error {
	// The text of an error belongs to the thread that made the call.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	path := C.CString(socket)
	defer C.free(unsafe.Pointer(path))
	var publisher *C.FanwireRingPublisher
	status := C.fanwire_ring_publisher_connect(C.FANWIRE_RING_ABI_VERSION, path, &publisher)
	if err := check("connect", status); err != nil {
		return err
	}
	defer C.fanwire_ring_publisher_free(publisher)
	for number := 0; number < numbers; number++ {
		data := fmt.Sprintf(`{"from":"go","number":%d}`, number)
		if err := check("publish", uint32(C.publish(publisher, channel, "tick", data, 10_000))); err != nil {
			return err
		}
	}
	return check("flush", C.fanwire_ring_publisher_flush(publisher, 10_000))
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintf(os.Stderr, "usage: %s SOCKET CHANNEL COUNT\n", os.Args[0])
		os.Exit(2)
	}
	numbers, err := strconv.Atoi(os.Args[3])
	if err == nil {
		err = run(os.Args[1], os.Args[2], numbers)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("published %d messages\n", numbers)
}
