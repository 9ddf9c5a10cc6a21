//! A decode step allocates nothing, on no thread: what a CUDA graph replays must not either.

mod common;

use std::alloc::System;

use common::engine;
use dreamseed_kernels::KvType;
use dreamseed_models::decoder::Logits;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn a_decode_step_allocates_nothing() {
    let llm = engine().llm(None).expect("the model");
    let (decoder, pool) = (llm.decoder(), engine().pool());
    let token = |i: usize| (i * 7919 % decoder.config().vocab) as u32;
    for kind in [KvType::F16, KvType::Q8_0] {
        let mut state = decoder.new_state_in(kind, 640);
        state.reserve(640);
        let prompt: Vec<u32> = (0..520).map(token).collect();
        decoder.forward(pool, &mut state, &prompt, Logits::Last).unwrap();
        // the first steps size each thread's scratch; which thread takes the largest piece is chance
        for i in 0..40 {
            decoder.forward(pool, &mut state, &[token(i)], Logits::Last).unwrap();
        }
        let region = Region::new(ALLOCATOR);
        for i in 0..80 {
            decoder.forward(pool, &mut state, &[token(i)], Logits::Last).unwrap();
        }
        let change = region.change();
        assert_eq!((change.allocations, change.reallocations, change.deallocations), (0, 0, 0), "{kind:?}: {change:?}");
    }
}
