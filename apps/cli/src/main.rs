//! The program `ibot`.

/// Each burn operation on the CPU allocates its result: a fast allocator saves a tenth of a step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// mimalloc's option "milliseconds until freed memory goes back to the system", `mi_option_purge_delay` in mimalloc.h.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

fn main() {
    // Each step allocates what the last one freed: giving it back means a page fault for each of its pages, a quarter
    // of the CPU time of a step (perf: clear_page_erms).
    // SAFETY: sets one number of the allocator, before any other thread runs.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
    let arguments: Vec<_> = std::env::args_os().collect();
    ibot_cli::main(&arguments);
}
