/* A model that misbehaves: its first input says how. 0 is good, and answers with the other inputs' sum. */
#include "sgsc_traps.h"

const uint8_t sgsc_traps_hash[32] = {[31] = 0xff};

#if defined(__arm__)
#define THUMB 1u
#define UNDEFINED "udf #0"
#define SUPERVISOR "svc 1"
#elif defined(__riscv)
#define THUMB 0u
#define UNDEFINED "unimp"
#define SUPERVISOR "ecall"
#else
#define THUMB 0u
#define UNDEFINED "udf #0"
#define SUPERVISOR "brk #1"
#endif

static const int8_t in_flash[4] = {1, 2, 3, 4};
static uint32_t in_ram[4] = {0xBF00BF00u, 0x47704770u, 3, 4}; /* nop, nop, bx lr, bx lr: code as data */
static int32_t kept;

__attribute__((noinline)) static void far_load(void)
{
    kept = *(volatile int32_t *)0xA0000000;
}

__attribute__((noinline)) static void far_store(void)
{
    *(volatile int32_t *)0xA0000010 = 1;
}

__attribute__((noinline)) static void flash_store(void)
{
    *(volatile int8_t *)(uintptr_t)&in_flash[2] = 5;
}

__attribute__((noinline)) static int32_t deep(volatile int32_t depth)
{
    volatile int32_t here[8];

    here[0] = depth;
    return depth == 0 ? here[0] : deep(depth - 1) + here[0];
}

__attribute__((noinline)) static void large_frame(void)
{
    volatile uint8_t large[10000];
    for (uint32_t i = 0; i < sizeof large; i++) {
        large[i] = (uint8_t)i;
    }
    kept = large[(uint32_t)kept % sizeof large];
}

__attribute__((noinline)) static void hang(void)
{
    for (;;) {
        kept++;
    }
}

__attribute__((noinline)) static void run_data(void)
{
    ((void (*)(void))((uintptr_t)in_ram | THUMB))();
    kept++;
}

__attribute__((noinline)) static void run_nothing(void)
{
    ((void (*)(void))(0x90000000u | THUMB))();
    kept++;
}

__attribute__((noinline)) static void undefined(void)
{
    __asm__ volatile(UNDEFINED);
}

__attribute__((noinline)) static void unaligned_load(void)
{
    kept = *(volatile int32_t *)((uintptr_t)in_ram + 1);
}

__attribute__((noinline)) static void unaligned_pair(void)
{
#if defined(__arm__)
    __asm__ volatile("ldmia %0!, {r2, r3}" ::"l"((uintptr_t)in_ram + 2) : "r2", "r3", "memory");
#endif
}

__attribute__((noinline)) static void supervisor(void)
{
    __asm__ volatile(SUPERVISOR);
}

__attribute__((noinline)) static void shell(void)
{
    /* Semihosting's SYS_SYSTEM: firmware has no business on the host. */
#if defined(__arm__)
    register uint32_t r0 __asm__("r0") = 0x12;
    register uint32_t *r1 __asm__("r1") = in_ram;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
#endif
}

__attribute__((noinline)) static void timer(void)
{
    *(volatile uint32_t *)0xE000E010 = 7; /* SysTick */
}

__attribute__((noinline)) static void wide_frame(void)
{
    volatile uint8_t wide[1000];
    for (uint32_t i = 0; i < sizeof wide; i++) {
        wide[i] = (uint8_t)i;
    }
    kept = wide[(uint32_t)kept % sizeof wide];
}

static int8_t calls;

__attribute__((noinline)) static void remember(void)
{
    calls++;
}

void sgsc_traps_invoke(const sgsc_traps_input *input, sgsc_traps_output *output)
{
    static void (*const ways[])(void) = {
        far_load, far_store, flash_store, large_frame, hang, run_data, run_nothing,
        undefined, unaligned_load, unaligned_pair, supervisor, shell, timer,
        wide_frame, remember};
    int8_t sum = 0;

    for (int i = 1; i < 8; i++) {
        sum = (int8_t)(sum + input->what[i]);
    }
    if (input->what[0] > 0) {
        ways[input->what[0] - 1]();
    } else if (input->what[0] < 0) {
        kept = deep(10000);
    }
    for (int i = 0; i < 4; i++) {
        output->y[i] = (int8_t)(sum + calls);
    }
}

int sgsc_traps_selftest(sgsc_traps_output *output)
{
    (void)output;
    return 0;
}
