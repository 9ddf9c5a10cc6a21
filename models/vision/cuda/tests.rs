//! Vision transformers on a device against transformers and the processor. They need a driver: a GPU's, or the emulator of
//! `tests/cuda.sh`. Without one they say so and pass, unless `DREAMSEED_CUDA_TEST` asks for them.

use dreamseed_kernels::Pool;

use super::super::dino::Dino;
use super::super::encoder::State;
use super::super::preprocess::cut;
use super::super::siglip::{SigLip, unit};
use super::super::tests::{Case, Golden, golden, noise, picture, relative_error};
use super::super::vitpose::VitPose;
use super::super::{Precision, Session, Vision};
use crate::Processor;
use crate::image::Image;
use crate::processor::device;
use crate::weights::Error as WeightsError;

#[test]
fn siglip_equals_transformers_on_a_gpu() {
    let (Some(device), Some(folder)) = (device(), golden("siglip")) else { return };
    let (pool, golden, target) = (Pool::new(2), Golden::open(&folder), Processor::Gpu(device.clone()));
    for (precision, bound) in [(Precision::Stored, 5e-3), (Precision::Int8, 0.05)] {
        let model = SigLip::open_at(&target, &folder, &pool, precision).unwrap();
        let (mut pictures, mut state) = (Vec::new(), State::default());
        for pixels in golden.floats("in.pixel_values").chunks_exact(3 * 32 * 32) {
            let patches = cut(pixels, [32, 32], 8);
            pictures.push(unit(model.pool(&pool, &patches, &model.vit().places(patches.grid), &mut state).unwrap()));
        }
        let ids: Vec<Vec<u32>> = golden.integers("in.input_ids").chunks_exact(16).map(<[u32]>::to_vec).collect();
        let texts = model.embed_ids(&pool, &ids).unwrap();
        let all = [(pictures.concat(), "out.image_embeds"), (texts.concat(), "out.text_embeds")];
        let errors = all.map(|(x, name)| (name, relative_error(&x, &golden.floats(name))));
        println!("SigLIP {precision:?} on a GPU: {errors:?}");
        assert!(errors.iter().all(|e| e.1 < bound), "{precision:?}: {errors:?}");
    }
    assert_eq!(device.used(), 0);
}

#[test]
fn dinov2_equals_transformers_on_a_gpu() {
    let Some(device) = device() else { return };
    let (pool, target) = (Pool::new(2), Processor::Gpu(device.clone()));
    for name in ["dinov2", "dinov2-swiglu", "dinov2-registers"] {
        let case = Case::open(name);
        let model = Dino::open_at(&target, case.folder().path(), &pool, Precision::Stored).unwrap();
        let mut state = State::default();
        // the second is smaller than the first, the third larger: buffers serve all
        for (h, w) in [(28, 28), (21, 35), (49, 42)] {
            let patches = cut(&noise(3 * h * w, "pixels"), [h, w], 7);
            let seen = model.pool(&pool, &patches, &model.vit().places(patches.grid), &mut state).unwrap();
            let error = relative_error(seen, &case.output(&format!("{h}x{w}"))[..seen.len()]);
            println!("{name} {h} x {w} on a GPU: {error}");
            assert!(error < 5e-3, "{name} {h} x {w}: {error}");
        }
    }
    // patches whose rows are no whole blocks of anything: 3 * 14 * 14
    if let Some(folder) = golden("dinov2") {
        let golden = Golden::open(&folder);
        for (precision, bound) in [(Precision::Stored, 5e-3), (Precision::Int8, 0.03)] {
            let model = Dino::open_at(&target, &folder, &pool, precision).unwrap();
            let patches = cut(&golden.floats("in.pixel_values"), [28, 28], 14);
            let mut state = State::default();
            let seen = model.pool(&pool, &patches, &model.vit().places(patches.grid), &mut state).unwrap();
            let error = relative_error(seen, &golden.floats("out.pooled"));
            assert!(error < bound, "{precision:?}: {error}");
        }
    }
    assert_eq!(device.used(), 0);
}

#[test]
fn vitpose_finds_the_points_of_transformers_on_a_gpu() {
    let Some(device) = device() else { return };
    let (pool, rgb, target) = (Pool::new(2), picture(90, 70), Processor::Gpu(device.clone()));
    let image = Image::new(70, 90, &rgb).unwrap();
    for name in ["vitpose", "vitpose-plus"] {
        let case = Case::open(name);
        let folder = case.folder();
        let model = VitPose::open_at(&target, folder.path(), &pool, Precision::Stored).unwrap();
        let own = VitPose::open(folder.path(), &pool, Precision::Stored).unwrap();
        let region = model.region([9.5, 12.25, 30.0, 51.0]);
        let got = model.detect(&pool, &image, &region, &mut State::default()).unwrap();
        let want = own.detect(&pool, &image, &region, &mut State::default()).unwrap();
        for ((got, want), score) in got.iter().zip(&want).zip(case.output("scores")) {
            assert!((got.score - want.score).abs() < 0.01 * want.score.abs().max(1.0), "{name}: {got:?}, {want:?}");
            assert!((got.score - score).abs() < 0.01 * score.abs().max(1.0), "{name}: {got:?}, {score}");
        }
    }
    assert_eq!(device.used(), 0);
}

#[test]
fn any_picture_is_embedded_and_odd_heads_are_refused() {
    let Some(device) = device() else { return };
    let (pool, target) = (Pool::new(2), Processor::Gpu(device.clone()));
    for name in ["siglip2", "dinov2"] {
        let folder = Case::open(name).folder();
        let gpu = Vision::open_at(&target, folder.path(), &pool, Precision::Stored).unwrap();
        let cpu = Vision::open(folder.path(), &pool, Precision::Stored).unwrap();
        let (mut session, mut own) = (Session::default(), Session::default());
        for (w, h) in [(1, 1), (300, 2), (64, 48)] {
            let rgb = picture(h, w);
            let image = Image::new(w as u32, h as u32, &rgb).unwrap();
            let got = gpu.embed(&pool, &image, &mut session).unwrap();
            let error = relative_error(&got, &cpu.embed(&pool, &image, &mut own).unwrap());
            assert!(error < 5e-3, "{name} {w} x {h}: {error}");
        }
    }
    let folder = Case::open("dinov2").folder();
    let path = folder.path().join("config.json");
    let text = std::fs::read_to_string(&path).unwrap().replace("\"num_attention_heads\":2", "\"num_attention_heads\":8");
    std::fs::write(&path, text).unwrap();
    let refused = Vision::open_at(&target, folder.path(), &pool, Precision::Stored).err();
    assert!(matches!(&refused, Some(WeightsError::Unsupported(why)) if why.contains("heads of 4")), "{refused:?}");
    assert_eq!(device.used(), 0);
}
