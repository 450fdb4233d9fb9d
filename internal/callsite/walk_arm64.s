//go:build gc && !purego

#include "textflag.h"

// func walk(pcs *uintptr, most int) (n int, hash uint64)
//
// As on amd64: a frame pointer points to the caller's frame pointer, above which is the return address.
TEXT ·walk(SB), NOSPLIT|NOFRAME, $0-32
	MOVD pcs+0(FP), R0
	MOVD most+8(FP), R7
	MOVD 8(g), R1   // g.stack.hi
	SUB  $16, R1    // the last place for a frame pointer and a return address
	MOVD 0(g), R2   // g.stack.lo
	MOVD R29, R3
	MOVD ZR, R4
	MOVD ZR, R5

next:
	CMP  R7, R4
	BGE  done
	CMP  R2, R3
	BLS  done
	CMP  R1, R3
	BHI  done
	MOVD 8(R3), R6
	MOVD R6, (R0)(R4<<3)
	ROR  $57, R5, R5
	EOR  R6, R5, R5
	ADD  $1, R4, R4
	MOVD R3, R2
	MOVD (R3), R3
	B    next

done:
	MOVD R4, n+16(FP)
	MOVD R5, hash+24(FP)
	RET

// func outward(n int) (pc, next uintptr)
TEXT ·outward(SB), NOSPLIT|NOFRAME, $0-24
	MOVD n+0(FP), R7
	MOVD 8(g), R1   // g.stack.hi
	SUB  $16, R1    // the last place for a frame pointer and a return address
	MOVD 0(g), R2   // g.stack.lo
	MOVD R29, R3
	MOVD ZR, R4
	MOVD ZR, R6

further:
	CMP  R2, R3
	BLS  none
	CMP  R1, R3
	BHI  none
	MOVD R6, R4
	MOVD 8(R3), R6
	MOVD R3, R2
	MOVD (R3), R3
	SUBS $1, R7, R7
	BGE  further
	MOVD R4, pc+8(FP)
	MOVD R6, next+16(FP)
	RET

none:
	MOVD ZR, pc+8(FP)
	MOVD ZR, next+16(FP)
	RET
