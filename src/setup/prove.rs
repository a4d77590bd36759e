//! Does the node work? The daemon answers, and, where something changed, a pod runs on it.

use std::path::Path;

use super::facts::OCID_SOCKET;
use super::probe::{Plugins, Probes};
use super::report::InstallReport;
use super::rollback::ANSWER;
use super::selftest::{self, SelfTest};
use super::settings::Component;
use super::step::{Context, StepError};
use super::verify::{self, Health};
use super::{Event, Failure, Setup, SetupError};

const RUNROOT: &str = "/run/ocid";
const PLUGIN_FOLDER: &str = "/opt/cni/bin";

impl Setup<'_> {
    /// Does it work? Where something changed, with a pod.
    pub(super) fn prove(
        &self,
        context: &mut Context<'_>,
        report: &mut InstallReport,
    ) -> Result<(), Failure> {
        report.health = self.verify()?;
        if report.health.is_none() || report.changed == 0 || !self.settings.selftest {
            return Ok(());
        }
        let root = Path::new("/");
        match Plugins::in_folder(root, Path::new(PLUGIN_FOLDER), &mut context.probes) {
            Some(plugins) => {
                (self.tell)(&Event::Proving);
                report.selftest = Some(self.run_selftest(plugins.cni_version)?);
            }
            None => report.notes.push(format!(
                "no self-test: there are no CNI plugins in `{PLUGIN_FOLDER}`"
            )),
        }
        if self.cancel.is_cancelled() {
            return Err(Failure::Interrupted);
        }
        Ok(())
    }

    pub(super) fn verify(&self) -> Result<Option<Health>, Failure> {
        if !self.settings.is_live() || !self.settings.has(Component::Ocid) {
            return Ok(None);
        }
        let health = verify::verify(Path::new(OCID_SOCKET), ANSWER)?;
        health.require(self.settings.has(Component::CniConfig))?;
        Ok(Some(health))
    }

    fn run_selftest(&self, cni_version: String) -> Result<selftest::Report, Failure> {
        let mut test = SelfTest::new(OCID_SOCKET, RUNROOT);
        test.exe.clone_from(&self.exe);
        test.cni_version = cni_version;
        test.cancel = self.cancel.clone();
        Ok(selftest::run(&test)?)
    }

    /// The self-test alone, on a node that is there.
    pub fn selftest(&self) -> Result<selftest::Report, SetupError> {
        let failed = |failure| SetupError::Unhealthy(Box::new(failure));
        let health = verify::verify(Path::new(OCID_SOCKET), ANSWER)
            .map_err(|e| failed(Failure::Verify(e)))?;
        health
            .require(false)
            .map_err(|e| failed(Failure::Verify(e)))?;
        let folder = Path::new(PLUGIN_FOLDER);
        let plugins = Plugins::in_folder(Path::new("/"), folder, &mut Probes::default());
        let plugins = plugins
            .ok_or_else(|| StepError::Plugins(folder.to_owned()))
            .map_err(|source| Failure::Step {
                step: "run a pod".to_owned(),
                source: Box::new(source),
            })
            .map_err(failed)?;
        self.run_selftest(plugins.cni_version).map_err(failed)
    }
}
