/**
 * The plugins of mlbench: this file only wires.
 */

import {
  ILabShell,
  ILayoutRestorer,
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import {
  Dialog,
  ICommandPalette,
  IToolbarWidgetRegistry,
  Notification,
  showDialog,
  WidgetTracker
} from '@jupyterlab/apputils';
import { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStateDB } from '@jupyterlab/statedb';
import type { ReadonlyJSONObject, ReadonlyPartialJSONObject } from '@lumino/coreutils';
import { Menu } from '@lumino/widgets';

import { Client, IArtifactName, sentence } from './api/client';
import { NewsFeed } from './api/news';
import type { IRunDetail } from './api/schema';
import { CATEGORY, Commands } from './commands';
import { mlbenchIcon } from './icons';
import { Contents } from './model/contents';
import { FilterModel } from './model/filter';
import { JobsModel } from './model/listing';
import { RunModel } from './model/run';
import { RunsModel } from './model/runs';
import { ScheduleModel } from './model/schedule';
import { goesOn, isUnderWay, stepName } from './model/steps';
import { artifactArgs, results } from './results';
import { IMlbench } from './tokens';
import { fanOutFactory } from './widgets/fanout';
import { INotebookOptions, OpenNotebook } from './widgets/notebook';
import { Renderers } from './widgets/rendered';
import { IResume, RunPage } from './widgets/runpage';
import { ScheduleDialog } from './widgets/scheduledialog';
import { Sidebar } from './widgets/sidebar';

export { IMlbench };

const client: JupyterFrontEndPlugin<IMlbench> = {
  id: 'mlbench:client',
  description: 'Asks the server half of mlbench, and brings its news.',
  autoStart: true,
  provides: IMlbench,
  activate: (app: JupyterFrontEnd): IMlbench => {
    const settings = app.serviceManager.serverSettings;
    const news = new NewsFeed(settings);
    void app.restored.then(() => news.start());
    return { client: new Client(settings), news };
  }
};

/** The notebooks that are open, each with what mlbench adds to it. */
class OpenNotebooks {
  constructor(
    private _app: JupyterFrontEnd,
    tracker: INotebookTracker,
    private _mlbench: IMlbench,
    private _wentOn: INotebookOptions['wentOn']
  ) {
    tracker.forEach(panel => this.get(panel));
    tracker.widgetAdded.connect((_, panel) => this.get(panel));
  }

  get(panel: NotebookPanel | null): OpenNotebook | null {
    if (!panel || panel.isDisposed) {
      return null;
    }
    const known = this._known.get(panel) ?? this._add(panel);
    this._known.set(panel, known);
    return known;
  }

  private _add(panel: NotebookPanel): OpenNotebook {
    const { commands, serviceManager } = this._app;
    const { client, news } = this._mlbench;
    const notebook = new OpenNotebook(panel, {
      client,
      news,
      localPath: path => serviceManager.contents.localPath(path),
      report: message => Notification.error(message),
      wentOn: this._wentOn,
      openExecution: (execution, run, path) => {
        void commands.execute(Commands.openRun, { run, path, execution });
      }
    });
    this._install = this._install ?? client.status().then(status => status.install);
    this._install.then(
      line => notebook.isDisposed || notebook.setInstall(line),
      () => {
        this._install = null;
      }
    );
    return notebook;
  }

  private _install: Promise<string> | null = null;
  private _known = new WeakMap<NotebookPanel, OpenNotebook>();
}

const plugin: JupyterFrontEndPlugin<void> = {
  id: 'mlbench:plugin',
  description:
    'The sidebar, the pages of runs, the marks on cells and the schedule dialog of mlbench.',
  autoStart: true,
  requires: [IMlbench, INotebookTracker, IRenderMimeRegistry],
  optional: [
    ICommandPalette,
    ILayoutRestorer,
    IStateDB,
    ILabShell,
    ISettingRegistry,
    IToolbarWidgetRegistry
  ],
  activate: (
    app: JupyterFrontEnd,
    mlbench: IMlbench,
    tracker: INotebookTracker,
    rendermime: IRenderMimeRegistry,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null,
    state: IStateDB | null,
    labShell: ILabShell | null,
    settings: ISettingRegistry | null
  ): void => {
    const { client, news } = mlbench;
    const { commands, shell } = app;
    const notebooks = new OpenNotebooks(app, tracker, mlbench, (steps, cancel) => {
      // The sidebar says it where it is open.
      if (!sidebar.isVisible) {
        Notification.info(goesOn(steps), {
          autoClose: 10000,
          actions: [{ label: steps.length > 1 ? 'Cancel them' : 'Cancel it', callback: cancel }]
        });
      }
    });
    const runs = new RunsModel(client, news);
    const filter = new FilterModel(client, runs, state);
    const jobs = new JobsModel(client, news);
    rendermime.addFactory(
      fanOutFactory((execution, item) => {
        void commands.execute(Commands.openItem, { execution, item });
      })
    );
    const renderers = new Renderers(rendermime);
    const pages = new WidgetTracker<RunPage>({ namespace: 'mlbench-runs' });
    const report = (error: unknown) => Notification.error(sentence(error));
    const current = () => notebooks.get(tracker.currentWidget);

    const openArtifact = (artifact: IArtifactName, path: string | null) =>
      void commands.execute(Commands.openArtifact, artifactArgs(artifact, path));
    const compare = (run: string, other: string, path: string | null) =>
      void commands.execute(Commands.compareRuns, { run, with: other, path });
    const runMenu = new Menu({ commands });
    const showRunMenu = (
      run: string,
      path: string | null,
      x: number,
      y: number,
      canOpen: boolean
    ) => {
      const args = { run, path };
      runMenu.clearItems();
      if (canOpen) {
        runMenu.addItem({ command: Commands.openRun, args: { ...args, menu: true } });
        runMenu.addItem({ type: 'separator' });
      }
      const command = Commands.compareRuns;
      runMenu.addItem({ command, args: { ...args, with: 'last-success' } });
      runMenu.addItem({ command, args: { ...args, with: 'run-before' } });
      runMenu.addItem({ command: Commands.compareWith, args });
      runMenu.open(x, y);
    };
    const jobMenu = new Menu({ commands });
    const sidebar = new Sidebar({
      icon: mlbenchIcon,
      state,
      runs,
      filter,
      jobs,
      onRunMenu: ({ run, path }, x, y) => showRunMenu(run.id, path, x, y, true),
      onCompare: compare,
      onOpenRun: (run, path) => void commands.execute(Commands.openRun, { run, path }),
      onOpenJob: ({ last, path }) => {
        if (last?.run) {
          void commands.execute(Commands.openRun, { run: last.run, path });
        } else if (path) {
          void commands.execute('docmanager:open', { path });
        }
      },
      onJobMenu: ({ job }, x, y) => {
        jobMenu.clearItems();
        const args = { id: job.id, name: job.name };
        jobMenu.addItem({ command: Commands.runJob, args });
        const toggle = job.paused ? Commands.resumeJob : Commands.pauseJob;
        jobMenu.addItem({ command: toggle, args });
        jobMenu.addItem({ type: 'separator' });
        jobMenu.addItem({ command: Commands.deleteJob, args });
        jobMenu.open(x, y);
      },
      onSchedule: () => void commands.execute(Commands.scheduleNotebook),
      onOpenExample: () => void commands.execute('filebrowser:activate')
    });
    shell.add(sidebar, 'left', { rank: 450, type: 'mlbench' });
    restorer?.add(sidebar, sidebar.id);
    const follow = () => {
      sidebar.current = current();
    };
    tracker.currentChanged.connect(follow);
    news.arrived.connect((_, arrived) => {
      if (arrived.type === 'run') {
        follow();
      }
    });
    void app.restored.then(() => {
      follow();
      runs.refresh();
      jobs.refresh();
    });

    /**
     * A failed run of a kernel whose notebook is open goes on there: the failing cell and those below it are run. One
     * of a job or a terminal goes on in a process of its own, and the page of the run that begins is opened.
     */
    const resume = ({ run, path, executions }: IRunDetail): IResume | null => {
      const failed = executions.find(each => each.state === 'failed');
      if (run.state === 'failed' && run.kind !== 'interactive' && failed && run.notebook !== null) {
        return {
          step: failed.step,
          start: async () => {
            try {
              const begun = await client.resumeRun(run.id, path);
              await commands.execute(Commands.openRun, { run: begun, path });
            } catch (error) {
              report(error);
            }
          }
        };
      }
      const panel = tracker.find(
        each => each.sessionContext.session?.kernel?.id === run.kernel && run.kernel !== null
      );
      const notebook = notebooks.get(panel ?? null);
      if (run.state !== 'failed' || !failed?.cell || !panel || notebook?.path !== path) {
        return null;
      }
      const { step, cell } = failed;
      return {
        step,
        start: async () => {
          shell.activateById(panel.id);
          notebook.goTo(cell);
          notebook.runFrom(cell);
        }
      };
    };

    const showRun = (id: string, path: string | null): RunPage => {
      const open = pages.find(page => page.model.id === id);
      if (open) {
        shell.activateById(open.id);
        return open;
      }
      const page = new RunPage({
        model: new RunModel(id, path, client, news),
        icon: mlbenchIcon,
        renderers,
        contents: new Contents(client, path),
        onGoToCell: (notebook, cell) => {
          void commands.execute(Commands.goToCell, { path: notebook, cell });
        },
        onCancelExecution: async execution => {
          await client.cancelExecution(execution).catch(report);
        },
        onOpenRun: (run, from) => void commands.execute(Commands.openRun, { run, path: from }),
        onOpenArtifact: openArtifact,
        onCompare: compare,
        onCompareMenu: (run, from, x, y) => showRunMenu(run, from, x, y, false),
        resume
      });
      void pages.add(page);
      shell.add(page, 'main', { type: 'mlbench' });
      shell.activateById(page.id);
      return page;
    };
    if (restorer) {
      void restorer.restore(pages, {
        command: Commands.openRun,
        args: page => ({ run: page.model.id, path: page.model.path }),
        name: page => page.model.id
      });
    }

    const schedule = async (): Promise<void> => {
      const notebook = current();
      if (!notebook?.panel.model) {
        return;
      }
      notebook.ensureId();
      const dialog = new ScheduleDialog(
        new ScheduleModel(client, {
          path: notebook.path,
          content: notebook.content()
        })
      );
      const result = await dialog.launch();
      if (result.value) {
        jobs.refresh();
        shell.activateById(sidebar.id);
      }
    };

    const aboutJob = (
      label: string,
      work: (id: string, name: string) => Promise<unknown>
    ): {
      label: string;
      describedBy: { args: ReadonlyJSONObject };
      execute: (args: ReadonlyPartialJSONObject) => Promise<void>;
    } => ({
      label,
      describedBy: { args: JOB_ARGS },
      execute: async args => {
        await work(String(args.id), String(args.name)).catch(report);
        jobs.refresh();
      }
    });
    commands.addCommand(
      Commands.runJob,
      aboutJob('Run now', id => client.runJob(id))
    );
    commands.addCommand(
      Commands.pauseJob,
      aboutJob('Pause', id => client.pauseJob(id, true))
    );
    commands.addCommand(
      Commands.resumeJob,
      aboutJob('Resume', id => client.pauseJob(id, false))
    );
    commands.addCommand(
      Commands.deleteJob,
      aboutJob('Delete', async (id, name) => {
        const answer = await showDialog({
          title: `Delete the job ${name}?`,
          body: 'It will not run again. Its runs stay.',
          buttons: [Dialog.cancelButton(), Dialog.warnButton({ label: 'Delete' })]
        });
        return answer.button.accept ? client.deleteJob(id) : null;
      })
    );
    commands.addCommand(Commands.showSidebar, {
      label: 'Show Steps, Runs and Jobs',
      describedBy: { args: NO_ARGS },
      execute: () => shell.activateById(sidebar.id)
    });
    commands.addCommand(Commands.openRun, {
      label: args => (args.menu ? 'Open' : 'Open a Run'),
      describedBy: { args: RUN_ARGS },
      execute: args => {
        if (!labShell) {
          // Notebook 7 shows one document a tab, and no notifications.
          void showDialog({
            title: 'Runs are shown in JupyterLab',
            body: `In a terminal: mlbench show ${String(args.run).slice(0, 4)}`,
            buttons: [Dialog.okButton()]
          });
          return;
        }
        const path = typeof args.path === 'string' ? args.path : null;
        const page = showRun(String(args.run), path);
        if (typeof args.execution === 'string') {
          page.model.tab = 'steps';
          page.model.choose(args.execution);
        }
      }
    });
    commands.addCommand(Commands.openItem, {
      label: 'Open an Item of a Fan-out',
      describedBy: { args: ITEM_ARGS },
      execute: async args => {
        const path = current()?.path ?? null;
        try {
          const { id, run } = await client.execution(String(args.execution), path);
          await commands.execute(Commands.openRun, { run, path, execution: id });
          const page = pages.find(each => each.model.id === run);
          if (page && typeof args.item === 'number') {
            await page.model.chooseItem(id, args.item);
          }
        } catch (error) {
          report(error);
        }
      }
    });
    commands.addCommand(Commands.runWhatChanged, {
      label: 'Run What Changed',
      caption: 'Run the steps that are out of date, have not run or did not succeed',
      describedBy: { args: NO_ARGS },
      isEnabled: () => (current()?.steps.toRun.length ?? 0) > 0,
      execute: () => current()?.runWhatChanged()
    });
    const withLastRun = async (work: (run: string, path: string | null) => void) => {
      const notebook = current();
      if (!notebook) {
        return;
      }
      const { path, notebookId } = notebook;
      try {
        const [last] = (await client.runs({ path, notebookId, limit: 1 })).runs;
        if (last) {
          work(last.run.id, last.path);
        } else {
          Notification.info('There is no run yet: run a step to make the first.');
        }
      } catch (error) {
        report(error);
      }
    };
    commands.addCommand(Commands.openLastRun, {
      label: 'Open the Last Run of This Notebook',
      describedBy: { args: NO_ARGS },
      isEnabled: () => current() !== null,
      execute: () =>
        withLastRun((run, path) => void commands.execute(Commands.openRun, { run, path }))
    });
    commands.addCommand(Commands.compareLastRun, {
      label: 'Compare the Last Run With the Last Success Before It',
      describedBy: { args: NO_ARGS },
      isEnabled: () => current() !== null,
      execute: () => withLastRun((run, path) => compare(run, 'last-success', path))
    });
    commands.addCommand(Commands.compareWith, {
      label: 'Compare With …',
      describedBy: { args: RUN_ARGS },
      execute: async args => {
        const path = typeof args.path === 'string' ? args.path : null;
        try {
          sidebar.compare(await client.run(String(args.run), path));
          shell.activateById(sidebar.id);
        } catch (error) {
          report(error);
        }
      }
    });
    commands.addCommand(Commands.filterRuns, {
      label: 'Filter Runs',
      describedBy: { args: NO_ARGS },
      execute: () => {
        shell.activateById(sidebar.id);
        sidebar.focusFilter();
      }
    });
    commands.addCommand(Commands.scheduleNotebook, {
      label: args => (args.toolbar ? 'Schedule' : 'Schedule This Notebook'),
      caption: 'Run this notebook by itself, at times that you choose',
      describedBy: { args: NO_ARGS },
      isEnabled: () => current() !== null,
      execute: schedule
    });
    commands.addCommand(Commands.turnIntoStep, {
      label: 'Turn This Cell Into a Step',
      describedBy: { args: NO_ARGS },
      isEnabled: () => {
        const cell = tracker.activeCell;
        return cell?.model.type === 'code' && stepName(cell.model.sharedModel.getSource()) === null;
      },
      execute: () => current()?.turnIntoStep()
    });
    commands.addCommand(Commands.cancelStep, {
      label: 'Cancel the Step of This Cell',
      describedBy: { args: NO_ARGS },
      isEnabled: () => {
        const cell = tracker.activeCell?.model.id;
        const execution = cell ? current()?.steps.executionOf(cell) : undefined;
        return execution !== undefined && isUnderWay(execution);
      },
      execute: async () => {
        const cell = tracker.activeCell?.model.id;
        const execution = cell ? current()?.steps.executionOf(cell) : undefined;
        if (execution) {
          await client.cancelExecution(execution.id).catch(report);
        }
      }
    });
    commands.addCommand(Commands.goToCell, {
      label: 'Go to a Cell',
      describedBy: { args: CELL_ARGS },
      execute: async args => {
        await commands.execute('docmanager:open', { path: args.path, factory: 'Notebook' });
        const found = tracker.find(panel => notebooks.get(panel)?.path === String(args.path));
        await found?.context.ready;
        await found?.revealed;
        notebooks.get(found ?? null)?.goTo(String(args.cell));
      }
    });
    for (const command of [
      Commands.showSidebar,
      Commands.scheduleNotebook,
      Commands.turnIntoStep,
      Commands.runWhatChanged,
      Commands.cancelStep,
      Commands.openLastRun,
      Commands.filterRuns,
      Commands.compareLastRun
    ]) {
      palette?.addItem({ command, category: CATEGORY });
    }
    labShell?.currentChanged.connect(() => commands.notifyCommandChanged());
    // The settings hold where the toolbar's button stands; nothing else is set there.
    void settings?.load(plugin.id).catch(error => console.warn(sentence(error)));
  }
};

const text = { type: 'string' } as const;
const NO_ARGS = { type: 'object', properties: {} } as const;
const JOB_ARGS = { type: 'object', properties: { id: text, name: text }, required: ['id', 'name'] };
const CELL_ARGS = {
  type: 'object',
  properties: { path: text, cell: text },
  required: ['path', 'cell']
};
const ITEM_ARGS = {
  type: 'object',
  properties: { execution: text, item: { type: ['number', 'null'] } },
  required: ['execution']
};
const RUN_ARGS = {
  type: 'object',
  properties: { run: text, path: text, execution: text },
  required: ['run']
};

const plugins: JupyterFrontEndPlugin<unknown>[] = [client, plugin, results];
export default plugins;
