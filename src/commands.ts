/**
 * The names of the commands, all of which are in the palette or a menu.
 */

export const CATEGORY = 'mlbench';

export const Commands = {
  showSidebar: 'mlbench:show-sidebar',
  openRun: 'mlbench:open-run',
  openArtifact: 'mlbench:open-artifact',
  filterRuns: 'mlbench:filter-runs',
  compareRuns: 'mlbench:compare-runs',
  compareWith: 'mlbench:compare-run-with',
  compareLastRun: 'mlbench:compare-last-run',
  openItem: 'mlbench:open-item',
  runWhatChanged: 'mlbench:run-what-changed',
  scheduleNotebook: 'mlbench:schedule-notebook',
  goToCell: 'mlbench:go-to-cell',
  turnIntoStep: 'mlbench:turn-cell-into-step',
  cancelStep: 'mlbench:cancel-step',
  openLastRun: 'mlbench:open-last-run',
  runJob: 'mlbench:run-job',
  pauseJob: 'mlbench:pause-job',
  resumeJob: 'mlbench:resume-job',
  deleteJob: 'mlbench:delete-job'
} as const;
