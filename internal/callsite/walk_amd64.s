//go:build gc && !purego

#include "textflag.h"

// func walk(pcs *uintptr, most int) (n int, hash uint64)
//
// In assembly, because nothing may move the stack between two steps: Go code can be preempted anywhere, assembly cannot.
// A frame pointer points to the caller's frame pointer, above which is the return address. The walk ends at the first that
// is not further up the stack than the one before, or not below the end of the stack, which is where C code called Go.
TEXT ·walk(SB), NOSPLIT|NOFRAME, $0-32
	MOVQ pcs+0(FP), DI
	MOVQ most+8(FP), SI
	MOVQ TLS, CX
	MOVQ 0(CX)(TLS*1), CX // g
	MOVQ 8(CX), R9        // g.stack.hi
	SUBQ $16, R9          // the last place for a frame pointer and a return address
	MOVQ 0(CX), R10       // g.stack.lo
	MOVQ BP, R11
	XORQ AX, AX
	XORQ R12, R12

next:
	CMPQ AX, SI
	JGE  done
	CMPQ R11, R10
	JLS  done
	CMPQ R11, R9
	JHI  done
	MOVQ 8(R11), DX
	MOVQ DX, (DI)(AX*8)
	ROLQ $7, R12
	XORQ DX, R12
	INCQ AX
	MOVQ R11, R10
	MOVQ (R11), R11
	JMP  next

done:
	MOVQ AX, n+16(FP)
	MOVQ R12, hash+24(FP)
	RET

// func outward(n int) (pc, next uintptr)
TEXT ·outward(SB), NOSPLIT|NOFRAME, $0-24
	MOVQ n+0(FP), SI
	MOVQ TLS, CX
	MOVQ 0(CX)(TLS*1), CX // g
	MOVQ 8(CX), R9        // g.stack.hi
	SUBQ $16, R9          // the last place for a frame pointer and a return address
	MOVQ 0(CX), R10       // g.stack.lo
	MOVQ BP, R11
	XORQ AX, AX
	XORQ DX, DX

further:
	CMPQ R11, R10
	JLS  none
	CMPQ R11, R9
	JHI  none
	MOVQ AX, DX
	MOVQ 8(R11), AX
	MOVQ R11, R10
	MOVQ (R11), R11
	DECQ SI
	JGE  further
	MOVQ DX, pc+8(FP)
	MOVQ AX, next+16(FP)
	RET

none:
	MOVQ $0, pc+8(FP)
	MOVQ $0, next+16(FP)
	RET
