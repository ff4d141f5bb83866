/* What compilers call without being asked, and <string.h> declares. Words where both sides are aligned. */
#include <stdint.h>
#include <string.h>

/* gcc would see memcpy in memcpy's loop, and call it. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-loop-distribute-patterns")
#endif

/* Memory of any type, as words. */
typedef uint32_t __attribute__((may_alias)) word;

static int aligned(const void *first, const void *second)
{
    return (((uintptr_t)first | (uintptr_t)second) & 3u) == 0;
}

void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
    unsigned char *target = to;
    const unsigned char *source = from;

    if (aligned(to, from)) {
        for (; size >= 4; size -= 4, target += 4, source += 4) {
            *(word *)(void *)target = *(const word *)(const void *)source;
        }
    }
    for (; size > 0; size--) {
        *target++ = *source++;
    }
    return to;
}

void *memmove(void *to, const void *from, size_t size)
{
    unsigned char *target = to;
    const unsigned char *source = from;

    if ((uintptr_t)to <= (uintptr_t)from) {
        while (size-- > 0) {
            *target++ = *source++;
        }
    } else {
        while (size-- > 0) {
            target[size] = source[size];
        }
    }
    return to;
}

void *memset(void *to, int value, size_t size)
{
    unsigned char *target = to;
    uint32_t four = (unsigned char)value * 0x01010101u;

    if (aligned(to, to)) {
        for (; size >= 4; size -= 4, target += 4) {
            *(word *)(void *)target = four;
        }
    }
    while (size-- > 0) {
        *target++ = (unsigned char)value;
    }
    return to;
}

int memcmp(const void *first, const void *second, size_t size)
{
    const unsigned char *a = first;
    const unsigned char *b = second;

    for (; size > 0; size--, a++, b++) {
        if (*a != *b) {
            return *a < *b ? -1 : 1;
        }
    }
    return 0;
}

#if defined(__ARM_EABI__)
/* The names of the Arm run-time ABI; its memset takes size and value the other way round. */
#define SAME(name, kind) \
    void __aeabi_##name(void *to, const void *from, size_t size) { kind(to, from, size); }
#define SET(name) \
    void __aeabi_##name(void *to, size_t size, int value) { memset(to, value, size); }
#define CLEAR(name) \
    void __aeabi_##name(void *to, size_t size) { memset(to, 0, size); }

void __aeabi_memcpy(void *to, const void *from, size_t size);
void __aeabi_memcpy4(void *to, const void *from, size_t size);
void __aeabi_memcpy8(void *to, const void *from, size_t size);
void __aeabi_memmove(void *to, const void *from, size_t size);
void __aeabi_memmove4(void *to, const void *from, size_t size);
void __aeabi_memmove8(void *to, const void *from, size_t size);
void __aeabi_memset(void *to, size_t size, int value);
void __aeabi_memset4(void *to, size_t size, int value);
void __aeabi_memset8(void *to, size_t size, int value);
void __aeabi_memclr(void *to, size_t size);
void __aeabi_memclr4(void *to, size_t size);
void __aeabi_memclr8(void *to, size_t size);

SAME(memcpy, memcpy)
SAME(memcpy4, memcpy)
SAME(memcpy8, memcpy)
SAME(memmove, memmove)
SAME(memmove4, memmove)
SAME(memmove8, memmove)
SET(memset)
SET(memset4)
SET(memset8)
CLEAR(memclr)
CLEAR(memclr4)
CLEAR(memclr8)
#endif
