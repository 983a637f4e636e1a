/**
 * What is put on a step's cell: the pill, or the line that says what its kernel lacks.
 */

import type { Cell } from '@jupyterlab/cells';
import { ReactWidget } from '@jupyterlab/ui-components';
import { PanelLayout, Widget } from '@lumino/widgets';
import * as React from 'react';

import { Notice } from '../components/notice';
import { Pill } from '../components/pill';
import type { StepsModel } from '../model/steps';

export interface IMarkOptions {
  readonly steps: StepsModel;
  readonly install: string;
  readonly onOpen: (execution: string, run: string) => void;
  readonly onOpenRun: (run: string) => void;
  readonly onCancel: (execution: string) => void;
  readonly onStopWaiting: (execution: string) => void;
  /** Whether a cell of the notebook loads mlbench. */
  readonly hasLoad: boolean;
  readonly onInsertLoad: () => void;
  /** Run that cell, then the one that was run in vain. */
  readonly onRunLoad: () => void;
}

/** A widget in a cell that draws what is to be said of it. */
export class CellMark extends ReactWidget {
  constructor(
    readonly cell: string,
    private _options: () => IMarkOptions,
    private _showsNotice: () => boolean
  ) {
    super();
    this.addClass('jp-mlb-CellMark');
  }

  protected render(): JSX.Element | null {
    const { steps, ...rest } = this._options();
    const execution = steps.executionOf(this.cell);
    const kind = steps.kernelKind;
    const lacks = (kind === 'not-loaded' || kind === 'lacks-mlbench') && this._showsNotice();
    return (
      <>
        {lacks && (
          <Notice
            kind={kind}
            install={rest.install}
            hasLoad={rest.hasLoad}
            onInsert={rest.onInsertLoad}
            onRun={rest.onRunLoad}
          />
        )}
        {execution && (
          <Pill
            execution={execution}
            waitsFor={steps.waiting(execution)}
            howFar={steps.howFar(this.cell)}
            staleness={steps.staleness(this.cell)}
            reusedFrom={steps.reusedFrom(execution)}
            onOpenRun={rest.onOpenRun}
            isAwaited={steps.waitsFor === execution.id}
            onOpen={() => rest.onOpen(execution.id, execution.run)}
            onCancel={() => rest.onCancel(execution.id)}
            onStopWaiting={() => rest.onStopWaiting(execution.id)}
          />
        )}
      </>
    );
  }
}

/** Put a widget into a cell, once. */
export function putInto(cell: Cell, mark: Widget): boolean {
  const layout = cell.layout;
  if (!(layout instanceof PanelLayout) || mark.parent === cell) {
    return false;
  }
  layout.insertWidget(0, mark);
  return true;
}
