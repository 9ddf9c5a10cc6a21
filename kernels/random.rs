//! Random numbers that are counted: the n-th of a seed needs none of those before it, and is the same on every processor and GPU.

/// What the state grows by for each number: the n-th number after a state is the first one after `state + (n - 1) * STEP`.
pub const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// The next number (SplitMix64, Steele et al. 2014).
pub fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(STEP);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The next number as one from 0 up to 1, in steps of 2^-53.
pub fn uniform(state: &mut u64) -> f64 {
    (next(state) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The state before the number `z`.
    pub(crate) fn before(z: u64) -> u64 {
        let z = (z ^ (z >> 31) ^ (z >> 62)).wrapping_mul(0x3196_42B2_D24D_8EC3);
        let z = (z ^ (z >> 27) ^ (z >> 54)).wrapping_mul(0x96DE_1B17_3F11_9089);
        (z ^ (z >> 30) ^ (z >> 60)).wrapping_sub(STEP)
    }

    #[test]
    fn numbers_are_the_published_ones_and_known_ahead() {
        // the first numbers of seed 1234567, as the generator's authors give them
        let mut state = 1_234_567;
        let numbers = [(); 3].map(|()| next(&mut state));
        assert_eq!(numbers, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
        assert_eq!(next(&mut 1_234_567u64.wrapping_add(STEP.wrapping_mul(2))), numbers[2]);
        for z in [0, 1, u64::MAX, numbers[0]] {
            assert_eq!(next(&mut before(z)), z);
        }
        assert_eq!(uniform(&mut before(0)), 0.0);
        assert!(uniform(&mut before(u64::MAX)) < 1.0);
    }
}
