//! Pictures and animations to upright 8-bit RGB.
//!
//! Grey and 16-bit pictures are converted; what shines through is put over white, as a page would show it. A turn noted in the
//! EXIF data is applied. The frames of animated GIF, WebP and PNG come with their times.

use super::{Frame, Limits, problem, refused};
use crate::Result;
use image::{
    AnimationDecoder, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, RgbImage, RgbaImage,
    codecs::{gif::GifDecoder, png::PngDecoder, webp::WebPDecoder},
    metadata::Orientation,
};
use std::{
    fs::File,
    io::{BufRead, BufReader, Cursor, Seek},
    path::Path,
};

type Reader = BufReader<File>;

/// The frames of a picture file: one for a still picture.
pub(super) fn open(path: &Path, limits: &Limits) -> Result<Vec<Frame>> {
    let reader = reader(path)?;
    match reader.format() {
        Some(ImageFormat::Gif) => {
            let decoder = limited(path, limits, GifDecoder::new(reader.into_inner()).map_err(broken(path))?)?;
            animation(path, limits, decoder)
        }
        Some(ImageFormat::WebP) => {
            let decoder = limited(path, limits, WebPDecoder::new(reader.into_inner()).map_err(broken(path))?)?;
            if decoder.has_animation() { animation(path, limits, decoder) } else { Ok(vec![still(path, decoder)?]) }
        }
        Some(ImageFormat::Png) => {
            let decoder = limited(path, limits, PngDecoder::new(reader.into_inner()).map_err(broken(path))?)?;
            match decoder.is_apng().map_err(broken(path))? {
                true => animation(path, limits, decoder.apng().map_err(broken(path))?),
                false => Ok(vec![still(path, decoder)?]),
            }
        }
        _ => Ok(vec![still(path, limited(path, limits, reader.into_decoder().map_err(broken(path))?)?)?]),
    }
}

/// The first frame alone, scaled to `size` if that is given (before any turn is applied, the longer side stays the longer).
pub(super) fn open_still(path: &Path, limits: &Limits) -> Result<Frame> {
    let decoder = reader(path)?.into_decoder().map_err(broken(path))?;
    still(path, limited(path, limits, decoder)?)
}

/// As [`open_still`], of a picture in memory that is called `name` in errors.
pub(super) fn decode_still(name: &Path, bytes: &[u8], limits: &Limits) -> Result<Frame> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(refused(name))?;
    still(name, limited(name, limits, known(name, reader)?.into_decoder().map_err(broken(name))?)?)
}

/// Width and height as stored, and upright; reads the header alone.
pub(super) fn size(path: &Path, limits: &Limits) -> Result<(u32, u32)> {
    let mut decoder = limited(path, limits, reader(path)?.into_decoder().map_err(broken(path))?)?;
    let (width, height) = decoder.dimensions();
    let turned = matches!(
        decoder.orientation().map_err(broken(path))?,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    );
    Ok(if turned { (height, width) } else { (width, height) })
}

/// Scales to `width` x `height` unless it has that size.
pub(super) fn scaled(frame: Frame, (width, height): (u32, u32)) -> Frame {
    if (frame.width, frame.height) == (width, height) {
        return frame;
    }
    let t = frame.t;
    match RgbImage::from_raw(frame.width, frame.height, frame.rgb) {
        Some(rgb) => {
            let rgb = image::imageops::resize(&rgb, width, height, image::imageops::FilterType::Triangle);
            Frame { t, width, height, rgb: rgb.into_raw() }
        }
        None => Frame { t, width: 0, height: 0, rgb: Vec::new() },
    }
}

fn reader(path: &Path) -> Result<ImageReader<Reader>> {
    let file = File::open(path).map_err(refused(path))?;
    known(path, ImageReader::new(BufReader::new(file)).with_guessed_format().map_err(refused(path))?)
}

/// Refuses other formats than those that are read here.
fn known<R: BufRead + Seek>(path: &Path, reader: ImageReader<R>) -> Result<ImageReader<R>> {
    match reader.format() {
        Some(ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::Gif | ImageFormat::WebP) => Ok(reader),
        _ => Err(problem(path, "it is not a picture that is read here (png, jpeg, webp, gif)")),
    }
}

/// Checks the header's size and bounds the decoder's memory by it.
fn limited<D: ImageDecoder>(path: &Path, limits: &Limits, mut decoder: D) -> Result<D> {
    let (width, height) = decoder.dimensions();
    limits.check_pixels(path, width, height)?;
    let mut bounds = image::Limits::default();
    bounds.max_alloc = Some(u64::from(width) * u64::from(height) * 24 + (64 << 20)); // canvas, frame and 16-bit RGBA, and tables
    decoder.set_limits(bounds).map_err(broken(path))?;
    Ok(decoder)
}

fn still(path: &Path, mut decoder: impl ImageDecoder) -> Result<Frame> {
    let turn = decoder.orientation().unwrap_or(Orientation::NoTransforms); // broken EXIF data is no reason to refuse
    let mut picture = DynamicImage::from_decoder(decoder).map_err(broken(path))?;
    picture.apply_orientation(turn);
    let rgb = if picture.color().has_alpha() { over_white(&picture.into_rgba8()) } else { picture.into_rgb8() };
    Ok(Frame { t: 0.0, width: rgb.width(), height: rgb.height(), rgb: rgb.into_raw() })
}

fn over_white(picture: &RgbaImage) -> RgbImage {
    let blend = |c: u8, a: u8| ((u32::from(c) * u32::from(a) + 255 * (255 - u32::from(a)) + 127) / 255) as u8;
    let mut rgb = Vec::with_capacity(picture.as_raw().len() / 4 * 3);
    for image::Rgba([r, g, b, a]) in picture.pixels().copied() {
        rgb.extend([blend(r, a), blend(g, a), blend(b, a)]);
    }
    RgbImage::from_raw(picture.width(), picture.height(), rgb).unwrap_or_default()
}

/// All frames that `limits.fps` keeps. Delays under 20 ms are taken as 100 ms, as browsers do.
fn animation<'a>(path: &Path, limits: &Limits, decoder: impl AnimationDecoder<'a>) -> Result<Vec<Frame>> {
    let (mut frames, mut t, mut before, mut held, mut count, mut drawn) = (Vec::new(), 0.0, None, 0u64, 0, 0u64);
    for frame in decoder.into_frames() {
        let frame = match frame {
            Ok(frame) => frame,
            Err(e) if frames.is_empty() => return Err(broken(path)(e)),
            Err(e) => {
                tracing::warn!("{}: the animation breaks off after {count} pictures: {e}", path.display());
                break;
            }
        };
        let (numerator, denominator) = frame.delay().numer_denom_ms();
        let delay = f64::from(numerator) / f64::from(denominator.max(1)) / 1000.0;
        count += 1;
        // Each picture is drawn on the whole canvas, however little it changes: a small file can ask for hours of that.
        drawn += u64::from(frame.buffer().width()) * u64::from(frame.buffer().height());
        if drawn > limits.max_frame_bytes {
            let most = limits.max_frame_bytes >> 20;
            return Err(problem(
                path,
                format!("its pictures hold more than {most} megapixels in all: cut it, or scale it down"),
            ));
        }
        limits.check_seconds(path, t)?;
        if limits.keeps(t, before) {
            let rgb = over_white(frame.buffer());
            let frame = Frame { t, width: rgb.width(), height: rgb.height(), rgb: rgb.into_raw() };
            let size = limits.fit(path, (frame.width, frame.height), 1)?;
            let frame = scaled(frame, size);
            held += frame.rgb.len() as u64;
            if held > limits.max_frame_bytes {
                return Err(problem(
                    path,
                    format!("its pictures need more than {} MiB: cut it, or scale it down", limits.max_frame_bytes >> 20),
                ));
            }
            frames.push(frame);
            limits.check_frames(path, frames.len())?;
        }
        before = Some(t);
        t += if delay < 0.02 { 0.1 } else { delay };
    }
    if frames.is_empty() { Err(problem(path, "it is an animation without pictures")) } else { Ok(frames) }
}

fn broken(path: &Path) -> impl Fn(ImageError) -> crate::Error + '_ {
    move |e| match e {
        ImageError::Unsupported(e) => {
            problem(path, format!("the picture cannot be decoded ({e}); save it as plain png or jpeg"))
        }
        ImageError::Limits(e) => problem(path, format!("the picture needs more memory than its size allows ({e})")),
        ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            problem(path, "the picture's file ends before it is complete")
        }
        e => problem(path, format!("the picture is broken: {e}")),
    }
}
