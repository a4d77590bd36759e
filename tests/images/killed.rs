//! A daemon killed in the middle of a pull.

use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::Home;
use crate::liar::{Gate, Liar};
use crate::pack::{Compression, Form, Layer, Packed, archive, noise};

const ROOT: &str = "IMAGES_TEST_ROOT";
const IMAGE: &str = "IMAGES_TEST_IMAGE";

/// The process that gets killed; it would never end by itself.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "runs as the child of `a_killed_pull_leaves_nothing_half_there`"]
async fn child() {
    let (root, image) = (std::env::var(ROOT).unwrap(), std::env::var(IMAGE).unwrap());
    let home = Home::default();
    let store =
        crio_setup::ocid::image::ImageStore::open(root.as_ref(), home.options.clone()).unwrap();
    store.pull(&image, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_pull_leaves_nothing_half_there() {
    let liar = Liar::start().await;
    let names: Vec<String> = (0..768).map(|n| format!("d/{n}")).collect();
    let data = noise(1, 64 << 10);
    let files: Vec<(&str, &[u8])> = names
        .iter()
        .map(|n| (n.as_str(), data.as_slice()))
        .collect();
    let whole = Layer::new(&archive(&[("f", b"f")]), Compression::Gzip);
    let half = Layer::new(&archive(&files), Compression::Plain);
    let packed = Packed::new(Form::Oci, "killed", &[whole, half.clone()]);
    liar.serve("1", &packed);
    let layer = format!("/v2/x/blobs/{}", half.digest);
    // In the middle of the manifest, of the configuration, and of a layer while another stands.
    for path in [
        "/v2/x/manifests/1",
        &format!("/v2/x/blobs/{}", packed.id()),
        &layer,
    ] {
        let gate = Arc::new(Gate::default());
        liar.change(path, |r| r.gate = Some(gate.clone()));
        let home = Home::default();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed::child", "--ignored"])
            .env(ROOT, home.root())
            .env(IMAGE, liar.image("1"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Of the layer half of 48 MiB was sent: more than sockets and queues hold, so files are being
        // written.
        gate.reached.notified().await;
        child.kill().unwrap();
        child.wait().unwrap();
        let staged = home.names("tmp");
        let half_done = |name: &String| home.root().join("tmp").join(name).join("d/d/0").exists();
        assert_eq!(
            staged.iter().any(half_done),
            path == layer,
            "{path}: where it was killed: {staged:?}"
        );
        let store = home.open();
        home.assert_empty();
        assert!(store.list().is_empty());
        gate.open.notify_one();
        liar.change(path, |r| r.gate = None);
        let image = store.pull(&liar.image("1"), None).await.unwrap();
        assert_eq!(image.id, packed.id());
        assert_eq!(home.names("layers").len(), 2);
    }
}
