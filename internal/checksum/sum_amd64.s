#include "textflag.h"

// ADD adds the 32-bit words of the 32 bytes in X, the low and the high ones of
// each 64 bits apart, to the four 64-bit lanes of two accumulators. It needs the
// mask of the low ones in Y15 and overwrites X and T.
#define ADD(X, T, LOW, HIGH) \
	VPSRLQ $32, X, T     \
	VPAND  X, Y15, X     \
	VPADDQ X, LOW, LOW   \
	VPADDQ T, HIGH, HIGH

// func sumBlocks(b []byte) uint64
TEXT ·sumBlocks(SB), NOSPLIT, $0-32
	MOVQ b_base+0(FP), SI
	MOVQ b_len+8(FP), CX

	VPXOR    Y0, Y0, Y0
	VPXOR    Y1, Y1, Y1
	VPXOR    Y2, Y2, Y2
	VPXOR    Y3, Y3, Y3
	VPCMPEQD Y15, Y15, Y15
	VPSRLQ   $32, Y15, Y15

	SUBQ $128, CX
	JB   few

many:
	VMOVDQU (SI), Y4
	VMOVDQU 32(SI), Y5
	VMOVDQU 64(SI), Y6
	VMOVDQU 96(SI), Y7
	ADD(Y4, Y8, Y0, Y1)
	ADD(Y5, Y9, Y2, Y3)
	ADD(Y6, Y10, Y0, Y1)
	ADD(Y7, Y11, Y2, Y3)
	ADDQ    $128, SI
	SUBQ    $128, CX
	JAE     many

few:
	ADDQ $128, CX
	JZ   done

one:
	VMOVDQU (SI), Y4
	ADD(Y4, Y8, Y0, Y1)
	ADDQ    $32, SI
	SUBQ    $32, CX
	JNZ     one

done:
	VPADDQ       Y1, Y0, Y0
	VPADDQ       Y3, Y2, Y2
	VPADDQ       Y2, Y0, Y0
	VEXTRACTI128 $1, Y0, X1
	VPADDQ       X1, X0, X0
	VPSRLDQ      $8, X0, X1
	VPADDQ       X1, X0, X0
	VMOVQ        X0, AX
	VZEROUPPER
	MOVQ         AX, ret+24(FP)
	RET

// func copyBlocks(dst, src []byte) uint64
TEXT ·copyBlocks(SB), NOSPLIT, $0-56
	MOVQ dst_base+0(FP), DI
	MOVQ src_base+24(FP), SI
	MOVQ src_len+32(FP), CX

	VPXOR    Y0, Y0, Y0
	VPXOR    Y1, Y1, Y1
	VPXOR    Y2, Y2, Y2
	VPXOR    Y3, Y3, Y3
	VPCMPEQD Y15, Y15, Y15
	VPSRLQ   $32, Y15, Y15

	SUBQ $128, CX
	JB   few

many:
	VMOVDQU (SI), Y4
	VMOVDQU 32(SI), Y5
	VMOVDQU 64(SI), Y6
	VMOVDQU 96(SI), Y7
	VMOVDQU Y4, (DI)
	VMOVDQU Y5, 32(DI)
	VMOVDQU Y6, 64(DI)
	VMOVDQU Y7, 96(DI)
	ADD(Y4, Y8, Y0, Y1)
	ADD(Y5, Y9, Y2, Y3)
	ADD(Y6, Y10, Y0, Y1)
	ADD(Y7, Y11, Y2, Y3)
	ADDQ    $128, SI
	ADDQ    $128, DI
	SUBQ    $128, CX
	JAE     many

few:
	ADDQ $128, CX
	JZ   done

one:
	VMOVDQU (SI), Y4
	VMOVDQU Y4, (DI)
	ADD(Y4, Y8, Y0, Y1)
	ADDQ    $32, SI
	ADDQ    $32, DI
	SUBQ    $32, CX
	JNZ     one

done:
	VPADDQ       Y1, Y0, Y0
	VPADDQ       Y3, Y2, Y2
	VPADDQ       Y2, Y0, Y0
	VEXTRACTI128 $1, Y0, X1
	VPADDQ       X1, X0, X0
	VPSRLDQ      $8, X0, X1
	VPADDQ       X1, X0, X0
	VMOVQ        X0, AX
	VZEROUPPER
	MOVQ         AX, ret+48(FP)
	RET
