/* Integer arithmetic that a 32-bit core lacks and compilers call: by the names of the Arm run-time ABI, or by gcc's.
 *
 * Written so that no function here needs another one of the kind: 64-bit values are taken apart into halves.
 * Division by zero gives 0 and the dividend as remainder.
 */
#include <stdint.h>

#if defined(__ARM_EABI__) || (defined(__riscv) && __riscv_xlen == 32)

typedef union {
    uint64_t whole;
    struct {
        uint32_t low;
        uint32_t high;
    } half;
} wide;

uint64_t board_divide(uint64_t dividend, uint64_t divisor, uint64_t *remainder);
uint64_t board_divide_signed(uint64_t dividend, uint64_t divisor, uint64_t *remainder);

/* Unsigned, bit by bit from the dividend's highest. */
__attribute__((used)) uint64_t board_divide(uint64_t dividend, uint64_t divisor, uint64_t *remainder)
{
    uint64_t quotient = 0;
    uint64_t rest = 0;

    if (divisor == 0) {
        *remainder = dividend;
        return 0;
    }
    for (int bit = 0; bit < 64; bit++) {
        wide shifted = {.whole = dividend};
        uint32_t carried = (uint32_t)(rest >> 63);
        rest = (rest + rest) | (shifted.half.high >> 31);
        dividend += dividend;
        quotient += quotient;
        if (carried != 0 || rest >= divisor) {
            rest -= divisor;
            quotient |= 1u;
        }
    }
    *remainder = rest;
    return quotient;
}

/* Two's complement: the quotient towards zero, the remainder with the dividend's sign. */
__attribute__((used)) uint64_t board_divide_signed(uint64_t dividend, uint64_t divisor, uint64_t *remainder)
{
    wide first = {.whole = dividend};
    wide second = {.whole = divisor};
    uint32_t first_negative = first.half.high >> 31;
    uint32_t second_negative = second.half.high >> 31;

    uint64_t quotient = board_divide(first_negative ? 0u - dividend : dividend,
                                     second_negative ? 0u - divisor : divisor, remainder);
    if (first_negative) {
        *remainder = 0u - *remainder;
    }
    return first_negative != second_negative ? 0u - quotient : quotient;
}

#if defined(__riscv)

#define SHIFT_LEFT __ashldi3
#define SHIFT_RIGHT __lshrdi3
#define SHIFT_RIGHT_SIGNED __ashrdi3

uint64_t __udivdi3(uint64_t dividend, uint64_t divisor);
uint64_t __umoddi3(uint64_t dividend, uint64_t divisor);
uint64_t __divdi3(uint64_t dividend, uint64_t divisor);
uint64_t __moddi3(uint64_t dividend, uint64_t divisor);

uint64_t __udivdi3(uint64_t dividend, uint64_t divisor)
{
    uint64_t remainder;

    return board_divide(dividend, divisor, &remainder);
}

uint64_t __umoddi3(uint64_t dividend, uint64_t divisor)
{
    uint64_t remainder;

    board_divide(dividend, divisor, &remainder);
    return remainder;
}

uint64_t __divdi3(uint64_t dividend, uint64_t divisor)
{
    uint64_t remainder;

    return board_divide_signed(dividend, divisor, &remainder);
}

uint64_t __moddi3(uint64_t dividend, uint64_t divisor)
{
    uint64_t remainder;

    board_divide_signed(dividend, divisor, &remainder);
    return remainder;
}

#else

#define SHIFT_LEFT __aeabi_llsl
#define SHIFT_RIGHT __aeabi_llsr
#define SHIFT_RIGHT_SIGNED __aeabi_lasr

void __aeabi_uldivmod(void);
void __aeabi_ldivmod(void);

/* Arguments in r0:r1 and r2:r3; the quotient goes to r0:r1, the remainder to r2:r3, which C cannot say. */
#define DIVIDE_WITH(function) \
    __asm__ volatile("push {r4, lr}\n\t" \
                     "sub sp, #16\n\t" \
                     "add r4, sp, #8\n\t" \
                     "str r4, [sp]\n\t" \
                     "bl " #function "\n\t" \
                     "ldr r2, [sp, #8]\n\t" \
                     "ldr r3, [sp, #12]\n\t" \
                     "add sp, #16\n\t" \
                     "pop {r4, pc}")

__attribute__((naked)) void __aeabi_uldivmod(void)
{
    DIVIDE_WITH(board_divide);
}

__attribute__((naked)) void __aeabi_ldivmod(void)
{
    DIVIDE_WITH(board_divide_signed);
}

#endif

#if defined(__ARM_ARCH_6M__) || defined(__riscv)

uint64_t SHIFT_LEFT(uint64_t value, uint32_t count);
uint64_t SHIFT_RIGHT(uint64_t value, uint32_t count);
uint64_t SHIFT_RIGHT_SIGNED(uint64_t value, uint32_t count);
int __clzsi2(uint32_t value);
int __clzdi2(uint64_t value);

uint64_t SHIFT_LEFT(uint64_t value, uint32_t count)
{
    wide bits = {.whole = value};

    if (count >= 32) {
        bits.half.high = bits.half.low << (count - 32);
        bits.half.low = 0;
    } else if (count > 0) {
        bits.half.high = bits.half.high << count | bits.half.low >> (32 - count);
        bits.half.low <<= count;
    }
    return bits.whole;
}

uint64_t SHIFT_RIGHT(uint64_t value, uint32_t count)
{
    wide bits = {.whole = value};

    if (count >= 32) {
        bits.half.low = bits.half.high >> (count - 32);
        bits.half.high = 0;
    } else if (count > 0) {
        bits.half.low = bits.half.low >> count | bits.half.high << (32 - count);
        bits.half.high >>= count;
    }
    return bits.whole;
}

uint64_t SHIFT_RIGHT_SIGNED(uint64_t value, uint32_t count)
{
    wide bits = {.whole = value};
    int32_t high = (int32_t)bits.half.high;

    if (count >= 32) {
        bits.half.low = (uint32_t)(high >> (count - 32));
        bits.half.high = (uint32_t)(high >> 31);
    } else if (count > 0) {
        bits.half.low = bits.half.low >> count | bits.half.high << (32 - count);
        bits.half.high = (uint32_t)(high >> count);
    }
    return bits.whole;
}

int __clzsi2(uint32_t value)
{
    int zeros = 0;

    for (; zeros < 32 && (value & 0x80000000u) == 0; zeros++) {
        value <<= 1;
    }
    return zeros;
}

int __clzdi2(uint64_t value)
{
    wide bits = {.whole = value};

    return bits.half.high != 0 ? __clzsi2(bits.half.high) : 32 + __clzsi2(bits.half.low);
}

#endif

#if defined(__ARM_ARCH_6M__)

uint64_t __aeabi_lmul(uint64_t first, uint64_t second);
uint64_t __aeabi_uidivmod(uint32_t dividend, uint32_t divisor);
uint64_t __aeabi_idivmod(int32_t dividend, int32_t divisor);
uint32_t __aeabi_uidiv(uint32_t dividend, uint32_t divisor);
int32_t __aeabi_idiv(int32_t dividend, int32_t divisor);

/* The low 64 bits of the product, out of 16-bit products: the core has no 32x32->64. */
uint64_t __aeabi_lmul(uint64_t first, uint64_t second)
{
    wide a = {.whole = first};
    wide b = {.whole = second};
    wide product;
    uint32_t a_low = a.half.low & 0xFFFFu;
    uint32_t a_high = a.half.low >> 16;
    uint32_t b_low = b.half.low & 0xFFFFu;
    uint32_t b_high = b.half.low >> 16;
    uint32_t low = a_low * b_low;
    uint32_t cross = a_high * b_low + (low >> 16); /* at most (2^16-1)^2 + 2^16-1: fits */
    uint32_t other = a_low * b_high + (cross & 0xFFFFu);

    product.half.low = (other << 16) | (low & 0xFFFFu);
    product.half.high = a_high * b_high + (cross >> 16) + (other >> 16) + a.half.high * b.half.low +
                        a.half.low * b.half.high;
    return product.whole;
}

/* Returned as a pair: the quotient in r0, the remainder in r1. */
uint64_t __aeabi_uidivmod(uint32_t dividend, uint32_t divisor)
{
    wide result = {.half = {0, 0}};

    if (divisor == 0) {
        result.half.high = dividend;
        return result.whole;
    }
    for (int bit = 0; bit < 32; bit++) {
        uint32_t carried = result.half.high >> 31;
        result.half.high = result.half.high << 1 | dividend >> 31;
        dividend <<= 1;
        result.half.low <<= 1;
        if (carried != 0 || result.half.high >= divisor) {
            result.half.high -= divisor;
            result.half.low |= 1u;
        }
    }
    return result.whole;
}

uint64_t __aeabi_idivmod(int32_t dividend, int32_t divisor)
{
    uint32_t first = dividend < 0 ? 0u - (uint32_t)dividend : (uint32_t)dividend;
    uint32_t second = divisor < 0 ? 0u - (uint32_t)divisor : (uint32_t)divisor;
    wide result = {.whole = __aeabi_uidivmod(first, second)};

    if ((dividend < 0) != (divisor < 0)) {
        result.half.low = 0u - result.half.low;
    }
    if (dividend < 0) {
        result.half.high = 0u - result.half.high;
    }
    return result.whole;
}

uint32_t __aeabi_uidiv(uint32_t dividend, uint32_t divisor)
{
    wide result = {.whole = __aeabi_uidivmod(dividend, divisor)};

    return result.half.low;
}

int32_t __aeabi_idiv(int32_t dividend, int32_t divisor)
{
    wide result = {.whole = __aeabi_idivmod(dividend, divisor)};

    return (int32_t)result.half.low;
}

#endif
#endif
