use super::*;
use image::{ImageEncoder, Rgb, RgbImage, Rgba, RgbaImage};
use std::{fs, path::PathBuf};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

fn message(result: Result<impl std::fmt::Debug>) -> String {
    result.unwrap_err().to_string()
}

/// A WAV file: `fmt ` with this tag and bits, then the samples' bytes.
fn wav(tag: u16, bits: u16, channels: u16, rate: u32, data: &[u8]) -> Vec<u8> {
    let block = bits.div_ceil(8) * channels;
    let mut file = b"RIFF".to_vec();
    file.extend((36 + data.len() as u32).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0");
    for v in [tag, channels] {
        file.extend(v.to_le_bytes());
    }
    file.extend(rate.to_le_bytes());
    file.extend((rate * u32::from(block)).to_le_bytes());
    for v in [block, bits] {
        file.extend(v.to_le_bytes());
    }
    file.extend(b"data");
    file.extend((data.len() as u32).to_le_bytes());
    file.extend(data);
    file
}

/// 0.1 s of 16-bit silence with a step to one half from 0.05 s on, at this rate and number of channels.
fn step(channels: u16, rate: u32) -> Vec<u8> {
    let n = rate / 10;
    let samples = (0..n).flat_map(|i| std::iter::repeat_n(if i >= n / 2 { 16384i16 } else { 0 }, channels.into()));
    wav(1, 16, channels, rate, &samples.flat_map(i16::to_le_bytes).collect::<Vec<_>>())
}

fn check_step(pcm: &[f32], rate: u32) {
    assert_eq!(pcm.len(), (f64::from(rate / 10) * 16_000.0 / f64::from(rate)).ceil() as usize, "{rate}");
    // Away from the step by the ringing of a slow rate's filter.
    let away = (16_000 / rate.min(16_000)) as usize * 40;
    let middle = pcm.len() / 2;
    if middle > 2 * away {
        assert!(pcm[..middle - away].iter().all(|v| v.abs() < 0.02), "{rate}");
        assert!(pcm[middle + away..pcm.len() - away].iter().all(|v| (v - 0.5).abs() < 0.02), "{rate}");
    }
}

#[test]
fn every_rate_and_channel_count_gives_the_same_sound() {
    let folder = Folder::new();
    for channels in 1..=8 {
        let path = folder.put("step", step(channels, 16_000)); // no ending: the content decides
        let pcm = open_audio(&path, &Limits::default()).unwrap();
        check_step(&pcm, 16_000);
        assert_eq!(pcm[1599], 0.5, "{channels}");
    }
    for rate in [7350, 8000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000] {
        let path = folder.put("step.mp3", step(2, rate)); // a lying ending
        check_step(&open(&path, &Limits::default()).unwrap().pcm, rate);
    }
}

#[test]
fn every_sample_format_gives_the_same_value() {
    let folder = Folder::new();
    let cases: [(u16, u16, Vec<u8>, f32); 9] = [
        (1, 8, vec![192], 0.5),
        (1, 16, 8192i16.to_le_bytes().into(), 0.25),
        (1, 24, (-(1i32 << 22)).to_le_bytes()[..3].into(), -0.5),
        (1, 20, (1i32 << 22).to_le_bytes()[..3].into(), 0.5),
        (1, 32, (1i32 << 29).to_le_bytes().into(), 0.25),
        (3, 32, 0.125f32.to_le_bytes().into(), 0.125),
        (3, 64, (-0.75f64).to_le_bytes().into(), -0.75),
        (6, 8, vec![0xd5 ^ 0x30], 264.0 / 32768.0), // exponent 3: (0 + 264) << 2 is 1056; see below
        (7, 8, vec![0x80], 32124.0 / 32768.0),
    ];
    for (tag, bits, sample, want) in cases {
        let want = if tag == 6 { 1056.0 / 32768.0 } else { want };
        let path = folder.put("a.wav", wav(tag, bits, 1, 16_000, &sample.repeat(10)));
        assert_eq!(open_audio(&path, &Limits::default()).unwrap(), vec![want; 10], "{tag} {bits}");
    }
    let hostile: Vec<u8> = [f32::NAN, f32::INFINITY, -f32::INFINITY, 1e38, -7.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let path = folder.put("a.wav", wav(3, 32, 1, 16_000, &hostile));
    assert_eq!(open_audio(&path, &Limits::default()).unwrap(), [0.0, 0.0, 0.0, 1.0, -1.0]);
}

#[test]
fn wav_headers_that_lie_do_not_matter() {
    let folder = Folder::new();
    let good = step(1, 16_000);
    let with = |riff: u32, data: u32| {
        let mut f = good.clone();
        f[4..8].copy_from_slice(&riff.to_le_bytes());
        f[40..44].copy_from_slice(&data.to_le_bytes());
        f
    };
    for (riff, data) in [(u32::MAX, u32::MAX), (0, 0), (36, u32::MAX), (u32::MAX, 0), (99, 1 << 30)] {
        let pcm = open_audio(&folder.put("a.wav", with(riff, data)), &Limits::default()).unwrap();
        check_step(&pcm, 16_000);
    }
    let mut rf64 = b"RF64\xff\xff\xff\xffWAVEds64\x1c\0\0\0".to_vec();
    rf64.extend([0; 8]);
    rf64.extend(3200u64.to_le_bytes());
    rf64.extend([0; 12]);
    rf64.extend(&with(u32::MAX, u32::MAX)[12..]);
    rf64.extend(b"LIST\x04\0\0\0junk");
    check_step(&open_audio(&folder.put("a.wav", rf64), &Limits::default()).unwrap(), 16_000);
    assert!(message(open_audio(&folder.put("a.wav", with(36, 0)), &Limits::default())).contains("no sound"));
    let silent = wav(1, 16, 0, 16_000, &[0; 8]);
    assert!(message(open_audio(&folder.put("a.wav", silent), &Limits::default())).contains("0 channels"));
    for rate in [0, 1, 999, 768_001, u32::MAX] {
        let mut f = good.clone();
        f[24..28].copy_from_slice(&rate.to_le_bytes());
        let text = message(open_audio(&folder.put("a.wav", f), &Limits::default()));
        assert!(text.contains("samples a second; allowed are 1000 to 768000") || text.contains("s long"), "{text}");
    }
}

#[test]
fn limits_hold_before_decoding() {
    let folder = Folder::new();
    let path = folder.put("a.wav", step(1, 16_000));
    let short = Limits { max_seconds: 0.05, ..Limits::default() };
    assert!(message(open(&path, &short)).contains("0.1 s long; at most 0.05 s"));
    let small = Limits { max_bytes: 100, ..Limits::default() };
    assert!(message(open(&path, &small)).contains("3244 bytes; at most 100"));
    let picture = folder.put("a.png", png(&RgbImage::new(30, 20)));
    let few = Limits { max_pixels: 599, ..Limits::default() };
    assert!(message(open(&picture, &few)).contains("30 x 20 pixels; at most 599"));
    // A header that promises a gigapixel is refused by its header, not by its allocation.
    let mut huge = png(&RgbImage::new(1, 1));
    huge[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
    let mut crc = flate2::Crc::new();
    crc.update(&huge[12..29]);
    let sum = crc.sum().to_be_bytes();
    huge[29..33].copy_from_slice(&sum);
    assert!(message(open(&folder.put("h.png", huge), &Limits::default())).contains("65535 x 65535 pixels"));
    for bad in [Limits { fps: f64::NAN, ..Limits::default() }, Limits { max_seconds: -1.0, ..Limits::default() }] {
        assert!(matches!(open(&path, &bad), Err(Error::Usage(_))));
    }
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let folder = Folder::new();
    let limits = Limits::default();
    assert!(message(open(folder.0.path(), &limits)).contains("it is a folder"));
    assert!(message(open(&folder.put("empty.wav", b""), &limits)).contains("empty (0 bytes)"));
    assert!(message(open(&folder.put("text.wav", "hello there"), &limits)).contains("68 65 6c 6c"));
    assert!(matches!(open(&folder.0.path().join("none"), &limits), Err(Error::Io { .. })));
    #[cfg(unix)]
    {
        assert!(message(open(Path::new("/dev/zero"), &limits)).contains("pipe or a device"));
        let pipe = folder.0.path().join("pipe");
        if std::process::Command::new("mkfifo").arg(&pipe).status().is_ok_and(|s| s.success()) {
            assert!(message(open(&pipe, &limits)).contains("pipe or a device"));
            assert!(open_frames(folder.0.path(), 5.0, &limits).is_err());
        }
    }
}

fn png(picture: &RgbImage) -> Vec<u8> {
    encoded(picture.clone().into(), image::ImageFormat::Png)
}

fn encoded(picture: image::DynamicImage, format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Red left, blue right.
fn flag(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, _| if x < width / 2 { Rgb([200, 0, 0]) } else { Rgb([0, 0, 200]) })
}

#[test]
fn pictures_become_upright_rgb() {
    let folder = Folder::new();
    let limits = Limits::default();
    let picture = flag(32, 16);
    for format in [image::ImageFormat::Png, image::ImageFormat::WebP, image::ImageFormat::Gif] {
        let frame = open_picture(&folder.put("p", encoded(picture.clone().into(), format)), &limits).unwrap();
        assert_eq!((frame.t, frame.width, frame.height, &frame.rgb), (0.0, 32, 16, picture.as_raw()), "{format:?}");
    }
    // 16-bit grey
    let grey = image::ImageBuffer::<image::Luma<u16>, _>::from_pixel(4, 4, image::Luma([0x8080]));
    let frame = open_picture(&folder.put("p", encoded(grey.into(), image::ImageFormat::Png)), &limits).unwrap();
    assert_eq!(frame.rgb, [0x80; 48]);
    // what shines through lies over white
    let glass = RgbaImage::from_pixel(2, 2, Rgba([255, 0, 0, 51]));
    let frame = open_picture(&folder.put("p", encoded(glass.into(), image::ImageFormat::Png)), &limits).unwrap();
    assert_eq!(frame.rgb[..3], [255, 204, 204]);
    // EXIF orientation 6: the camera was held on its side
    let mut jpeg = Vec::new();
    let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 95);
    let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    encoder.set_exif_metadata(exif.to_vec()).unwrap();
    encoder.write_image(picture.as_raw(), 32, 16, image::ExtendedColorType::Rgb8).unwrap();
    let frame = open_picture(&folder.put("p.jpg", &jpeg), &limits).unwrap();
    assert_eq!((frame.width, frame.height), (16, 32));
    let pixel = |x: usize, y: usize| &frame.rgb[(y * 16 + x) * 3..][..3];
    assert!(pixel(8, 2)[0] > 150 && pixel(8, 29)[2] > 150, "left went to the top");
    assert!(message(open_audio(&folder.put("p.jpg", &jpeg), &limits)).contains("it is a picture"));
}

fn gif(delays_ms: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
    for (i, &ms) in delays_ms.iter().enumerate() {
        let picture = RgbaImage::from_pixel(8, 8, Rgba([(i * 40) as u8, 0, 0, 255]));
        encoder.encode_frame(image::Frame::from_parts(picture, 0, 0, image::Delay::from_numer_denom_ms(ms, 1))).unwrap();
    }
    drop(encoder);
    bytes
}

#[test]
fn an_animation_has_times() {
    let folder = Folder::new();
    let path = folder.put("a.gif", gif(&[100, 300, 0, 100]));
    let clip = open(&path, &Limits::default()).unwrap();
    let times: Vec<f64> = clip.frames.iter().map(|f| f.t).collect();
    assert!(times.iter().zip([0.0, 0.1, 0.4, 0.5]).all(|(a, b)| (a - b).abs() < 1e-9), "{times:?}");
    assert_eq!(clip.frames[3].rgb[0], 120);
    let slow = Limits { fps: 4.0, ..Limits::default() };
    assert_eq!(open(&path, &slow).unwrap().frames.iter().map(|f| f.rgb[0]).collect::<Vec<_>>(), [0, 80, 120]);
    let few = Limits { max_frames: 3, ..Limits::default() };
    assert!(message(open(&path, &few)).contains("at most 3"));
    let poor = Limits { max_frame_bytes: 500, ..Limits::default() };
    assert!(message(open(&path, &poor)).contains("need more than"));
}

#[test]
fn an_animation_is_not_drawn_without_end() {
    let folder = Folder::new();
    let path = folder.put("a.gif", gif(&[40; 30]));
    let one = open(&path, &Limits::default()).unwrap().frames[0].rgb.len() as u64 / 3;
    // Looked at once a second only the first two of thirty are kept; all of them are drawn.
    let limits = Limits { fps: 1.0, max_frame_bytes: 20 * one, ..Limits::default() };
    assert!(message(open(&path, &limits)).contains("megapixels in all"));
    assert_eq!(open(&path, &Limits { max_frame_bytes: 40 * one, ..limits }).unwrap().frames.len(), 2);
}

#[test]
fn a_folder_of_pictures_has_a_rate_and_one_size() {
    let folder = Folder::new();
    for i in [1, 2, 10] {
        folder.put(&format!("f{i}.png"), png(&RgbImage::from_pixel(20, 10, Rgb([i, 0, 0]))));
    }
    folder.put(".hidden", "x");
    let clip = open_frames(folder.0.path(), 4.0, &Limits::default()).unwrap();
    assert_eq!(clip.frames.iter().map(|f| (f.t, f.rgb[0])).collect::<Vec<_>>(), [(0.0, 1), (0.25, 2), (0.5, 10)]);
    assert_eq!(clip.duration(), 0.75);
    let small = Limits { max_side: 16, ..Limits::default() };
    let clip = open_frames(folder.0.path(), 4.0, &small).unwrap();
    assert_eq!((clip.frames[2].width, clip.frames[2].height, clip.frames[2].rgb[0]), (16, 8, 10));
    let few = Limits { max_frames: 2, ..Limits::default() };
    assert!(message(open_frames(folder.0.path(), 4.0, &few)).contains("at most 2"));
    for fps in [0.0, -1.0, f64::NAN, 1e9] {
        assert!(matches!(open_frames(folder.0.path(), fps, &Limits::default()), Err(Error::Usage(_))));
    }
    folder.put("f11.png", png(&RgbImage::new(10, 20)));
    let text = message(open_frames(folder.0.path(), 4.0, &Limits::default()));
    assert!(text.contains("10 x 20") && text.contains("20 x 10"), "{text}");
    fs::remove_file(folder.0.path().join("f11.png")).unwrap();
    folder.put("f3.png", step(1, 16_000));
    assert!(message(open_frames(folder.0.path(), 4.0, &Limits::default())).contains("not a picture"));
    let empty = Folder::new();
    assert!(message(open_frames(empty.0.path(), 4.0, &Limits::default())).contains("no pictures"));
}

/// `file` cut off at many places, and with bytes changed, more often near its start.
fn damaged(file: &[u8], changes: usize) -> Vec<Vec<u8>> {
    let mut random = 1u64;
    let mut next = |n: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % n
    };
    let mut all: Vec<Vec<u8>> = (0..file.len()).step_by((file.len() / 60).max(1)).map(|n| file[..n].to_vec()).collect();
    for _ in 0..changes {
        let mut f = file.to_vec();
        for _ in 0..1 + next(3) {
            let at = if next(2) == 0 { next(64.min(f.len())) } else { next(f.len()) };
            f[at] = [0, 0xff, 0x7f, next(256) as u8][next(4)];
        }
        all.push(f);
    }
    all
}

/// Opens what is left of `file`; tells how often something was.
fn survive(folder: &Folder, file: &[u8], changes: usize) -> (usize, usize) {
    let limits = Limits { max_pixels: 1 << 20, ..Limits::default() };
    let (mut good, mut bad) = (0, 0);
    for bytes in damaged(file, changes) {
        match open(&folder.put("x", &bytes), &limits) {
            Ok(clip) => {
                good += 1;
                assert!(clip.pcm.iter().all(|v| v.abs() <= 1.0));
                assert!(clip.frames.iter().all(|f| f.rgb.len() == (f.width * f.height * 3) as usize));
            }
            Err(e) => {
                bad += 1;
                let text = e.to_string();
                assert!(text.len() > 10 && text.contains(": "), "{text}");
            }
        }
    }
    (good, bad)
}

#[test]
fn broken_files_are_errors_or_what_is_left_of_them() {
    let folder = Folder::new();
    let files = [
        step(2, 8000),
        png(&flag(16, 16)),
        encoded(flag(16, 16).into(), image::ImageFormat::Jpeg),
        encoded(flag(16, 16).into(), image::ImageFormat::WebP),
        gif(&[100, 100, 100]),
    ];
    let found = files.iter().map(|f| survive(&folder, f, 150)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    assert!(found.0 > 100 && found.1 > 100, "{found:?}");
}

/// The same for every file of the folder `DREAMSEED_FUZZ`: formats that cannot be written here.
#[test]
#[ignore = "needs a folder of media files in DREAMSEED_FUZZ"]
fn broken_files_of_a_folder() {
    let folder = Folder::new();
    let files = fs::read_dir(std::env::var_os("DREAMSEED_FUZZ").unwrap()).unwrap();
    for file in files.map(|f| f.unwrap().path()) {
        let start = std::time::Instant::now();
        let found = survive(&folder, &fs::read(&file).unwrap(), 300);
        eprintln!("{}: {found:?} in {:?}", file.display(), start.elapsed());
    }
}

/// A video made by ffmpeg from its own test sources; `None` (with a message) where ffmpeg is not installed.
fn made(folder: &Folder, name: &str, arguments: &[&str]) -> Option<PathBuf> {
    if ffmpeg_version().is_none() {
        eprintln!("skipped: ffmpeg is not installed");
        return None;
    }
    let path = folder.0.path().join(name);
    let status =
        std::process::Command::new("ffmpeg").args(["-nostdin", "-v", "error", "-y"]).args(arguments).arg(&path).status();
    assert!(status.unwrap().success());
    Some(path)
}

#[test]
fn a_video_keeps_its_times_and_its_sound() {
    let folder = Folder::new();
    // 2 s at 30 a second, a flash and a beep of 0.1 s from 1 s on
    let picture = "color=black:s=64x48:r=30:d=2,drawbox=c=white:t=fill:enable='between(t,0.99,1.09)'";
    let sound = "aevalsrc='if(between(t,1,1.1),0.8*sin(2*PI*1000*t),0)':s=44100:d=2";
    let arguments = ["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound, "-c:v", "mpeg4", "-q:v", "2", "-c:a", "aac"];
    for name in ["v.mp4", "v.mkv", "-v:odd name.avi"] {
        let Some(path) = made(&folder, name, &arguments) else { return };
        let limits = Limits { fps: 10.0, ..Limits::default() };
        let clip = open(&path, &limits).unwrap();
        let times: Vec<f64> = clip.frames.iter().map(|f| f.t).collect();
        // ffmpeg writes Matroska with a start of 23 ms, the run-in of AAC: all times are the file's own.
        let start = times[0];
        assert!(start < 0.03 && (20..=21).contains(&times.len()), "{name} {times:?}");
        assert!(times.iter().enumerate().all(|(i, t)| (t - i as f64 / 10.0).abs() < 0.04), "{name}: {times:?}");
        assert!(clip.frames.iter().all(|f| (f.width, f.height) == (64, 48)));
        let bright: Vec<f64> = clip.frames.iter().filter(|f| f.rgb[0] > 128).map(|f| f.t).collect();
        // Every third frame is looked at, and AVI, which has no presentation times, comes a frame late.
        assert!(bright.len() == 1 && (bright[0] - 1.0 - start).abs() < 0.11, "{name}: {bright:?}");
        // AVI cannot say that AAC runs in for 1,024 samples; the others do, and it is taken off.
        let late = if name.ends_with("avi") { 0.03 } else { 0.005 };
        let onset = clip.pcm.iter().position(|v| v.abs() > 0.3).unwrap() as f64 / 16_000.0;
        assert!((onset - 1.0 - start).abs() < late, "{name}: {onset}");
        assert!((clip.pcm.len() as f64 / 16_000.0 - 2.0).abs() < 0.06, "{name}: {}", clip.pcm.len());
        let onset = open_audio(&path, &limits).unwrap().iter().position(|v| v.abs() > 0.3).unwrap() as f64 / 16_000.0;
        assert!((onset - 1.0 - start).abs() < late, "{name}: {onset}");
        let full = open(&path, &Limits { fps: 60.0, ..Limits::default() }).unwrap();
        assert_eq!(full.frames.len(), 60, "{name}");
        for (limits, what) in [
            (Limits { max_seconds: 1.0, ..limits.clone() }, "s long"),
            (Limits { max_pixels: 64 * 47, ..limits.clone() }, "64 x 48"),
            (Limits { max_frames: 5, ..limits.clone() }, "at most 5"),
        ] {
            let text = message(open(&path, &limits));
            assert!(text.contains(what), "{text}");
        }
    }
}

#[test]
fn a_video_is_turned_scaled_and_survives_cuts() {
    let folder = Folder::new();
    let Some(path) = made(&folder, "v.mp4", &["-f", "lavfi", "-i", "testsrc=s=160x80:r=10:d=1", "-c:v", "mpeg4"]) else {
        return;
    };
    let turned = made(&folder, "t.mp4", &["-i", path.to_str().unwrap(), "-c", "copy", "-metadata:s:v", "rotate=90"]).unwrap();
    let small = Limits { max_side: 64, ..Limits::default() };
    let clip = open(&path, &small).unwrap();
    assert_eq!((clip.frames[0].width, clip.frames[0].height, clip.frames.len(), clip.pcm.len()), (64, 32, 10, 0));
    let turned = open(&turned, &small).unwrap();
    assert!(matches!((turned.frames[0].width, turned.frames[0].height), (32, 64) | (64, 32)), "kept by some ffmpegs as a tag");
    assert!(message(open_audio(&path, &small)).contains("no sound"));
    let bytes = fs::read(&path).unwrap();
    for n in [40, bytes.len() / 3, bytes.len() - 200] {
        let text = message(open(&folder.put("cut.mp4", &bytes[..n]), &small));
        assert!(text.contains("ff"), "{n}: {text}");
    }
}

/// Each of the eight orientations of EXIF: a picture with a red corner at the top left and a green one at the top right of what is
/// stored. Where the two are shown follows from the standard (EXIF 2.32, tag 0x0112).
#[test]
fn all_eight_exif_orientations_are_shown_upright() {
    let folder = Folder::new();
    let stored = RgbImage::from_fn(32, 16, |x, y| match (x < 8, x >= 24, y < 8) {
        (true, _, true) => Rgb([255, 0, 0]),
        (_, true, true) => Rgb([0, 255, 0]),
        _ => Rgb([0, 0, 255]),
    });
    // for each: red and green as (right?, bottom?)
    let shown =
        [[0, 0, 1, 0], [1, 0, 0, 0], [1, 1, 0, 1], [0, 1, 1, 1], [0, 0, 0, 1], [1, 0, 1, 1], [1, 1, 1, 0], [0, 1, 0, 0]];
    for (i, [rx, ry, gx, gy]) in shown.into_iter().enumerate() {
        let mut bytes = Vec::new();
        let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 95);
        let mut exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\0\0\0\0\0\0\0\0".to_vec();
        exif[18] = i as u8 + 1;
        encoder.set_exif_metadata(exif).unwrap();
        encoder.write_image(stored.as_raw(), 32, 16, image::ExtendedColorType::Rgb8).unwrap();
        let frame = open(&folder.put(&format!("{i}.jpg"), &bytes), &Limits::default()).unwrap().frames.remove(0);
        assert_eq!((frame.width, frame.height), if i < 4 { (32, 16) } else { (16, 32) }, "orientation {}", i + 1);
        let color = |right: u32, bottom: u32| {
            let (x, y) = (2 + right * (frame.width - 5), 2 + bottom * (frame.height - 5));
            let at = ((y * frame.width + x) * 3) as usize;
            [frame.rgb[at] > 128, frame.rgb[at + 1] > 128]
        };
        assert_eq!((color(rx, ry), color(gx, gy)), ([true, false], [false, true]), "orientation {}", i + 1);
    }
}
