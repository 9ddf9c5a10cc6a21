//! ViTPose in place of BlazePose's landmark net: a small random one whose heatmaps are high everywhere.

use std::path::Path;

use dreamseed::Engine;
use dreamseed::extract::view;
use dreamseed_kernels::Pool;
use dreamseed_models::image::Image;
use dreamseed_models::pose::{LANDMARK_NAMES, Options, Person};
use serde_json::{Value, json};

use crate::common::{dreamseed, outcome, reference, weights};
use crate::model::golden;

/// A model of `points` points.
fn write(folder: &Path, points: usize) {
    golden("vitpose", folder, |config, name, (shape, scale, offset)| {
        config["id2label"] = (0..points).map(|i| (i.to_string(), json!("x"))).collect::<serde_json::Map<_, _>>().into();
        shape[0] = if name.starts_with("head.conv") { points } else { shape[0] };
        match name {
            "head.conv.bias" => (*scale, *offset) = (0.1, 0.7),
            "head.conv.weight" => *scale *= 0.05,
            _ => {}
        }
    });
}

/// The names of a person's landmarks that the net has.
fn had(person: &Person) -> Vec<&'static str> {
    let all = person.landmarks.iter().zip(LANDMARK_NAMES);
    all.filter(|(l, _)| l.x.is_finite() && l.y.is_finite()).map(|(_, name)| name).collect()
}

#[test]
fn vitpose_is_chosen_by_name_and_never_by_accident() {
    let Some(file) = reference("media/pose.jpg") else { return };
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(folder.path(), 17);
    write(other.path(), 5);
    let (path, file) = (folder.path().to_str().unwrap(), file.to_str().unwrap());
    weights("blazepose-detector"); // which finds the people

    // 1. as a library
    let engine = Engine::builder().build().unwrap();
    let pose = engine.pose(Some(path)).unwrap();
    let frame = dreamseed::media::open_picture(file.as_ref(), &engine.limits()).unwrap();
    let track = |image: &Image| pose.tracker(Options::default()).track(&Pool::new(2), image, 0.0).unwrap();
    let person = track(&view(&frame).unwrap()).remove(0);
    let names = had(&person);
    assert_eq!((person.landmarks.len(), names.len(), person.world.len()), (33, 17, 0), "{names:?}");
    assert!(names.contains(&"left_wrist") && names.contains(&"nose") && !names.contains(&"left_heel"), "{names:?}");
    assert!(person.landmarks.iter().all(|l| l.z.is_nan() && (l.x.is_finite() || l.visibility == 0.0)));
    assert!(person.score > 0.5 && person.score <= 1.0);

    // 2. by the configuration, and by a name of weights.toml
    let manifest = folder.path().join("weights.toml");
    let model = format!(
        "[[model]]\nid='small-body'\nname='x'\nrole='pose'\nformat='safetensors'\nlicence='x'\nlicence_url='x'\nnotice='x'\n\
         verified=false\nmemory_mb=1\nneeds=['blazepose-detector']\n\
         files=[{{path='model.safetensors'}}, {{path='config.json'}}]\nsources=[{{kind='local', path='{path}'}}]\n"
    );
    std::fs::write(&manifest, model).unwrap();
    let home = tempfile::tempdir().unwrap();
    let detector = home.path().join("models/blazepose-detector");
    std::fs::create_dir_all(&detector).unwrap();
    std::fs::copy(weights("blazepose-detector").join("pose_detection.tflite"), detector.join("pose_detection.tflite")).unwrap();
    let landmarks = |args: &[&str], model: &str| {
        let mut command = dreamseed(&[&["pose", file, "--json"], args].concat());
        let (code, out, err) = outcome(command.env("DREAMSEED_POSE_MODEL", model));
        assert_eq!(code, 0, "{err}");
        serde_json::from_str::<Value>(out.lines().next().unwrap()).unwrap()["people"][0]["landmarks"].clone()
    };
    let wanted: Value = serde_json::from_str(&serde_json::to_string(&person.landmarks).unwrap()).unwrap();
    assert_eq!(landmarks(&[], path), wanted);
    assert_eq!(wanted[29], json!([null, null, null, 0.0]), "a heel, which COCO does not have");
    let more = ["--offline", "--home", home.path().to_str().unwrap(), "--weights", manifest.to_str().unwrap()];
    assert_eq!(landmarks(&more, "small-body"), wanted);
    assert_ne!(landmarks(&["--model", "full"], path), wanted, "what is named goes before the configuration");

    // 3. what cannot be had is an error, not another net
    for (model, code, wanted) in [
        (other.path().to_str().unwrap(), 1, "a net of 5 points"),
        ("vitpose-huge", 2, "no model is called"),
        ("movenet-multipose", 2, "no file *.tflite"),
    ] {
        let (seen, out, err) = outcome(dreamseed(&["pose", file, "--json"]).env("DREAMSEED_POSE_MODEL", model));
        assert!(seen == code && err.contains(wanted) && out.is_empty(), "{model}: {seen}: {out}{err}");
    }
}
