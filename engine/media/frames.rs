//! A folder of pictures with a rate.

use super::{Clip, Frame, Limits, guarded, picture, problem, refused, sniff};
use crate::{Error, Result};
use rayon::prelude::*;
use std::{
    cmp::Ordering,
    path::{Path, PathBuf},
};

/// Opens the pictures of a folder in the order of the numbers in their names (2 before 10), `fps` a second.
///
/// Every regular file that is not hidden must be a picture, and all must have the same size: a picture of another size in a
/// sequence is a mistake worth telling. They are scaled down together to what [`Limits`] allows.
pub fn open_frames(folder: &Path, fps: f64, limits: &Limits) -> Result<Clip> {
    limits.check()?;
    if !(fps.is_finite() && fps > 0.0 && fps <= 1000.0) {
        return Err(Error::Usage(format!("{fps} pictures a second; allowed is above 0 up to 1000 (--fps N)")));
    }
    let files = list(folder, limits)?;
    limits.check_seconds(folder, files.len() as f64 / fps)?;
    // 1. every header, before anything is decoded
    let sizes = files.par_iter().map(|f| guarded(f, || picture::size(f, limits))).collect::<Result<Vec<_>>>()?;
    let first = sizes[0];
    if let Some(i) = sizes.iter().position(|&s| s != first) {
        return Err(problem(
            &files[i],
            format!(
                "it is {} x {} pixels, but {} is {} x {}: all pictures of a folder must have one size",
                sizes[i].0,
                sizes[i].1,
                files[0].display(),
                first.0,
                first.1
            ),
        ));
    }
    let size = limits.fit(folder, first, files.len())?;
    // 2. decode
    let frames = files.par_iter().enumerate().map(|(i, file)| {
        let frame = picture::scaled(guarded(file, || picture::open_still(file, limits))?, size);
        Ok(Frame { t: i as f64 / fps, ..frame })
    });
    Ok(Clip { frames: frames.collect::<Result<_>>()?, ..Clip::default() })
}

/// The pictures of a folder in natural order; at least one.
fn list(folder: &Path, limits: &Limits) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(refused(folder))? {
        let entry = entry.map_err(refused(folder))?;
        let path = entry.path();
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if hidden || !std::fs::metadata(&path).map_err(refused(&path))?.is_file() {
            continue;
        }
        files.push(path);
        limits.check_frames(folder, files.len())?;
    }
    if files.is_empty() {
        return Err(problem(folder, "the folder has no pictures (png, jpeg, webp, gif)"));
    }
    for file in &files {
        if sniff::look(file, limits)? != sniff::Kind::Picture {
            return Err(problem(file, "it is not a picture; a folder of frames may hold pictures alone"));
        }
    }
    files.sort_by(|a, b| natural(&a.to_string_lossy(), &b.to_string_lossy()));
    Ok(files)
}

/// Order of names in which runs of digits count as numbers; equal numbers go by their text, so that the order is total.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut x, mut y) = (a.as_bytes(), b.as_bytes());
    let digits = |s: &[u8]| s.iter().take_while(|c| c.is_ascii_digit()).count();
    while let (Some(&p), Some(&q)) = (x.first(), y.first()) {
        let order = if p.is_ascii_digit() && q.is_ascii_digit() {
            let ((m, n), strip) = ((digits(x), digits(y)), |s: &mut &[u8], n: usize| {
                let (number, rest) = s.split_at(n);
                *s = rest;
                let zeros = number.iter().take_while(|&&c| c == b'0').count();
                number[zeros..].to_vec()
            });
            let (u, v) = (strip(&mut x, m), strip(&mut y, n));
            u.len().cmp(&v.len()).then(u.cmp(&v))
        } else {
            (x, y) = (&x[1..], &y[1..]);
            p.cmp(&q)
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    x.len().cmp(&y.len()).then(a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count_as_numbers() {
        let mut names =
            ["f10.png", "f2.png", "F1.png", "f02.png", "f.png", "f2b.png", "f99999999999999999999.png", "f1-10", "f1-9"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(
            names,
            ["F1.png", "f.png", "f1-9", "f1-10", "f02.png", "f2.png", "f2b.png", "f10.png", "f99999999999999999999.png"]
        );
    }
}
