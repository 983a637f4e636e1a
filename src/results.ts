/**
 * The pages that look into results: two runs that are compared, and an artifact with its lineage. It only wires.
 */

import {
  ILabShell,
  ILayoutRestorer,
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { Dialog, MainAreaWidget, showDialog, WidgetTracker } from '@jupyterlab/apputils';
import { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import type { ReadonlyJSONObject } from '@lumino/coreutils';

import type { IArtifactName } from './api/client';
import { Commands } from './commands';
import { mlbenchIcon } from './icons';
import { ArtifactModel } from './model/artifact';
import { ComparisonModel } from './model/comparison';
import { Contents } from './model/contents';
import { IMlbench } from './tokens';
import { ArtifactPage } from './widgets/artifactpage';
import { ComparePage } from './widgets/comparepage';
import { Renderers } from './widgets/rendered';

export const results: JupyterFrontEndPlugin<void> = {
  id: 'mlbench:results',
  description: 'The pages of two runs that are compared, and of artifacts.',
  autoStart: true,
  requires: [IMlbench, IRenderMimeRegistry],
  optional: [ILabShell, ILayoutRestorer],
  activate: (
    { commands, shell }: JupyterFrontEnd,
    { client, news }: IMlbench,
    rendermime: IRenderMimeRegistry,
    labShell: ILabShell | null,
    restorer: ILayoutRestorer | null
  ): void => {
    const renderers = new Renderers(rendermime);
    const comparisons = new WidgetTracker<ComparePage>({ namespace: 'mlbench-comparisons' });
    const artifacts = new WidgetTracker<ArtifactPage>({ namespace: 'mlbench-artifacts' });

    const show = <T extends MainAreaWidget>(
      tracker: WidgetTracker<T>,
      find: (page: T) => boolean,
      make: () => T
    ): void => {
      let page = tracker.find(find);
      if (!page) {
        page = make();
        void tracker.add(page);
        shell.add(page, 'main', { type: 'mlbench' });
      }
      shell.activateById(page.id);
    };
    const openRun = (run: string, execution: string | null, path: string | null) =>
      void commands.execute(Commands.openRun, { run, path, execution });
    const openArtifact = (artifact: IArtifactName, path: string | null) =>
      void commands.execute(Commands.openArtifact, artifactArgs(artifact, path));

    commands.addCommand(Commands.compareRuns, {
      label: args => LABELS[String(args.with)] ?? 'Compare Two Runs',
      describedBy: { args: COMPARE_ARGS },
      execute: args => {
        const [run, other] = [String(args.run), String(args.with)];
        if (!labShell) {
          const command = other.includes('-') ? short(run) : `${short(other)} ${short(run)}`;
          void onlyInLab('Runs are compared in JupyterLab', `mlbench diff ${command}`);
          return;
        }
        show(
          comparisons,
          ({ model }) => model.run === run && model.other === other,
          () =>
            new ComparePage({
              model: new ComparisonModel(run, other, textOf(args.path), client, news),
              icon: mlbenchIcon,
              onOpenRun: (id, path) => openRun(id, null, path),
              onOpenArtifact: openArtifact
            })
        );
      }
    });
    commands.addCommand(Commands.openArtifact, {
      label: 'Open an Artifact',
      describedBy: { args: ARTIFACT_ARGS },
      execute: args => {
        const digest = String(args.digest);
        const [execution, run] = [textOf(args.execution), textOf(args.run)];
        const [name, path] = [textOf(args.name), textOf(args.path)];
        if (!labShell) {
          void onlyInLab('Artifacts are shown in JupyterLab', `mlbench lineage ${digest}`);
          return;
        }
        show(
          artifacts,
          ({ model: { artifact } }) =>
            artifact.digest === digest &&
            artifact.execution === execution &&
            artifact.run === run &&
            artifact.name === name,
          () =>
            new ArtifactPage({
              model: new ArtifactModel({ digest, execution, run, name }, path, client),
              icon: mlbenchIcon,
              renderers,
              contents: new Contents(client, path),
              onOpenRun: openRun,
              onOpenArtifact: openArtifact
            })
        );
      }
    });
    if (restorer) {
      void restorer.restore(comparisons, {
        command: Commands.compareRuns,
        args: ({ model }) => ({ run: model.run, with: model.other, path: model.path }),
        name: ({ model }) => `${model.run}-${model.other}`
      });
      void restorer.restore(artifacts, {
        command: Commands.openArtifact,
        args: ({ model: { artifact, path } }) => artifactArgs(artifact, path),
        name: page => page.id
      });
    }
  }
};

/** What the command that opens an artifact is given. */
export function artifactArgs(
  { digest, execution, run, name }: IArtifactName,
  path: string | null
): ReadonlyJSONObject {
  return {
    digest,
    execution: execution ?? null,
    run: run ?? null,
    name: name ?? null,
    path
  };
}

/** Notebook 7 shows one document a tab. */
function onlyInLab(title: string, command: string): Promise<unknown> {
  return showDialog({ title, body: `In a terminal: ${command}`, buttons: [Dialog.okButton()] });
}

function textOf(value: unknown): string | null {
  return typeof value === 'string' ? value : null;
}

function short(id: string): string {
  return id.slice(0, 4);
}

const LABELS: { readonly [earlier: string]: string } = {
  'run-before': 'Compare With the Run Before',
  'last-success': 'Compare With the Last Success'
};

const text = { type: 'string' } as const;
const textOrNot = { type: ['string', 'null'] };
const COMPARE_ARGS = {
  type: 'object',
  properties: { run: text, with: text, path: textOrNot },
  required: ['run', 'with']
};
const ARTIFACT_ARGS = {
  type: 'object',
  properties: {
    digest: text,
    execution: textOrNot,
    run: textOrNot,
    name: textOrNot,
    path: textOrNot
  },
  required: ['digest']
};
