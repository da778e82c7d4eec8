package child

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// region is memory outside of Go's heap, in which nothing moves and which the garbage collector does not know: what is in it may point to what
// else is in it, and to nothing on the heap. The kernel gives a page when it is touched.
type region struct {
	chunks [][2]uintptr // address and size
	free   [2]uintptr   // what is left of the last one
}

// chunkBytes holds a common program twice over.
const chunkBytes = 128 << 10

// take gives room for n zero values of T, whose pointers, if it has any, must point into the region.
func take[T any](r *region, n int) ([]T, error) {
	if n == 0 {
		return nil, nil
	}
	var t T
	size := (uintptr(n)*unsafe.Sizeof(t) + 15) &^ 15
	if size > r.free[1] {
		chunk := max((size+uintptr(os.Getpagesize())-1)&^(uintptr(os.Getpagesize())-1), chunkBytes)
		p, _, errno := syscall.Syscall6(unix.SYS_MMAP, 0, chunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, ^uintptr(0), 0)
		if errno != 0 {
			return nil, os.NewSyscallError("mmap", errno)
		}
		r.chunks = append(r.chunks, [2]uintptr{p, chunk})
		r.free = [2]uintptr{p, chunk}
	}
	p := r.free[0]
	r.free = [2]uintptr{p + size, r.free[1] - size}
	return unsafe.Slice((*T)(at(p)), n), nil
}

// put is take for one value.
func put[T any](r *region, v T) (*T, error) {
	s, err := take[T](r, 1)
	if err != nil {
		return nil, err
	}
	s[0] = v
	return &s[0], nil
}

func (r *region) release() {
	for _, c := range r.chunks {
		_, _, _ = syscall.Syscall(unix.SYS_MUNMAP, c[0], c[1], 0)
	}
	*r = region{}
}

// address is that of the first element, and null if there is none.
func address[T any](s []T) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(s))) }
