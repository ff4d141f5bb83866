/* Puts the package's model behind the link. SGSC_MODEL: its C identifier; SGSC_HEADER: its header;
   SGSC_ARENA_BYTES: its arena. */
#include SGSC_HEADER

#include "core.h"
#include "protocol.h"

#define JOIN_(a, b) sgsc_##a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define MODEL(part) JOIN(SGSC_MODEL, part)

static MODEL(input) input;
static MODEL(output) output;

static void invoke(void)
{
    MODEL(invoke)(&input, &output);
}

static int selftest(void)
{
    return MODEL(selftest)(&output);
}

int main(void)
{
    const struct board_model model = {
        .hash = MODEL(hash),
        .input = (uint8_t *)&input,
        .output = (uint8_t *)&output,
        .input_bytes = sizeof input,
        .output_bytes = sizeof output,
        .arena_bytes = SGSC_ARENA_BYTES,
        .core = board_core(),
        .invoke = invoke,
        .selftest = selftest,
    };

    protocol_serve(&model);
    return 0;
}
