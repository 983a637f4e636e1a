/**
 * The schedule dialog: it closes when the job is made, and says what stands in the way otherwise.
 */

import { Dialog } from '@jupyterlab/apputils';
import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import * as React from 'react';

import type { IJobView } from '../api/schema';
import { ScheduleForm } from '../components/scheduleform';
import type { ScheduleModel } from '../model/schedule';

class ScheduleBody extends ReactWidget implements Dialog.IBodyWidget<IJobView | null> {
  constructor(private _model: ScheduleModel) {
    super();
    this.addClass('jp-mlb-ScheduleBody');
  }

  job: IJobView | null = null;

  getValue(): IJobView | null {
    return this.job;
  }

  protected render(): JSX.Element {
    const model = this._model;
    return (
      <UseSignal signal={model.changed}>
        {() => (
          <ScheduleForm
            name={model.name}
            when={model.when}
            zones={model.zones}
            schedule={model.schedule}
            scheduleError={model.scheduleError}
            check={model.check}
            error={model.error}
            valueOf={field => model.valueOf(field)}
            problemOf={field => model.problemOf(field)}
            onName={name => model.setName(name)}
            onWhen={change => model.setWhen(change)}
            onValue={(field, value) => model.setValue(field, value)}
          />
        )}
      </UseSignal>
    );
  }
}

export class ScheduleDialog extends Dialog<IJobView | null> {
  constructor(model: ScheduleModel) {
    const body = new ScheduleBody(model);
    super({
      title: `Schedule ${model.notebook.path.split('/').pop()}`,
      body,
      hasClose: true,
      focusNodeSelector: '.jp-mlb-Schedule input',
      buttons: [Dialog.cancelButton(), Dialog.okButton({ label: 'Schedule' })]
    });
    this.addClass('jp-mlb-ScheduleDialog');
    this._body_ = body;
    this._model = model;
  }

  /** Send before closing: a refusal keeps the dialog open, and is shown in it. */
  override resolve(index?: number): void {
    const accepts = index === undefined || index === 1;
    if (!accepts) {
      super.resolve(index);
      return;
    }
    if (this._model.isSending) {
      return;
    }
    void this._model.send().then(job => {
      if (job && !this.isDisposed) {
        this._body_.job = job;
        super.resolve(1);
      }
    });
  }

  override dispose(): void {
    this._model.dispose();
    super.dispose();
  }

  private _body_: ScheduleBody;
  private _model: ScheduleModel;
}
